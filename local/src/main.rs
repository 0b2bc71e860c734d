//! `greenwave`: the whole suite on one machine.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use greenwave::demo;
use greenwave::events::Webhook;
use greenwave::serve::{Host, Options};
use greenwave::{backtest, cost, quarantine, replay, train};

/// Traffic signals that act on what their detectors see: the Greenwave suite on one machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the routes of the API on 127.0.0.1, to every program of this machine: nobody signs in.
    Serve {
        /// Port to listen on; 0 takes a free one.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Where everything is kept.
        #[arg(long, default_value = ".greenwave")]
        data_dir: PathBuf,
        /// Where models lie that are not shipped, as NAME/NAME.model.
        #[arg(long, default_value = "models")]
        models: PathBuf,
        /// Address to which alerts are posted, as `CloudEvents`.
        #[arg(long)]
        webhook: Option<Webhook>,
    },
    /// Serve, and drive a simulated city with it.
    Demo {
        /// Port to listen on; 0 takes a free one.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Where everything is kept; without it, in a directory that is deleted at the end.
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// Seed of the traffic: the same seed gives the same day.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Simulated seconds in a second.
        #[arg(long, default_value_t = 20.0, value_parser = positive)]
        speed: f64,
        /// Simulated minutes to run; 0 runs until Ctrl-C.
        #[arg(long, default_value_t = 0.0, value_parser = not_negative, allow_negative_numbers = true)]
        minutes: f64,
    },
    /// Train a model for a kind of machine from lives that ended with a failure.
    Train(train::Args),
    /// Replay lives whose end is known through a model, and find the alert threshold that costs least.
    Backtest(backtest::Args),
    /// Make decisions about signals again from their records, and show what was compared.
    Replay(replay::Args),
    /// Look at records that could not be processed, send them again or throw them away.
    #[command(subcommand)]
    Quarantine(quarantine::Action),
    /// Simulate a city and tell what it costs on AWS by list prices, per million readings and per junction and month.
    Cost(cost::Args),
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 10_000.0 => Ok(number),
        _ => Err("must be a number greater than 0 and at most 10000".into()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1e6).contains(&number) => Ok(number),
        _ => Err("must be a number from 0 to 1000000".into()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("GREENWAVE_LOG").unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "greenwave: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Serve { port, data_dir, models, webhook } => {
            let host = Host::start(&data_dir, port, Options { webhook, models }).await?;
            let stop = stop();
            say(&format!("Greenwave answers at http://{} and keeps its data in {}. Ctrl-C ends it.", host.address(), data_dir.display()));
            let router = host.router();
            host.serve(router, stop).await?;
            say("Everything is on disk.");
        }
        Command::Demo { port, data_dir, seed, speed, minutes } => {
            let temporary = tempfile::tempdir()?;
            let directory = data_dir.unwrap_or_else(|| temporary.path().to_owned());
            let host = Host::start(&directory, port, Options::default()).await?;
            let url = format!("http://{}", host.address());
            let router = host.router();
            let (done, finished) = tokio::sync::oneshot::channel::<()>();
            let serving = tokio::spawn(host.serve(router.clone(), async move {
                let _ = finished.await;
            }));
            let options = demo::Options { seed, speed, minutes, url };
            let outcome = demo::run(router, options, stop(), |line| say(&line)).await;
            drop(done);
            serving.await??;
            outcome?;
        }
        Command::Train(args) => train::run(&args, say)?,
        Command::Backtest(args) => backtest::run(&args, say)?,
        Command::Replay(args) => replay::run(&args, say)?,
        Command::Quarantine(action) => quarantine::run(&action, stop(), say).await?,
        Command::Cost(args) => {
            // It has a runtime of its own, in which time is virtual.
            let bill = tokio::task::spawn_blocking(move || cost::run(&args)).await??;
            say(&bill.to_string());
        }
    }
    Ok(())
}

fn say(line: &str) {
    // A closed pipe is no reason to stop serving.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Ctrl-C, or the signal with which a service manager ends a process. The second one ends it at once: what was answered is on disk.
/// Signals are heard from this call on, not only once it is waited for.
fn stop() -> impl Future<Output = ()> {
    let mut signals = Signals::new();
    async move {
        signals.next().await;
        say("Finishing what is under way. Ctrl-C again ends at once.");
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(130);
        });
    }
}

/// The signals that end a process. One that comes between two calls of `next` is not lost.
struct Signals {
    #[cfg(unix)]
    streams: std::io::Result<[tokio::signal::unix::Signal; 2]>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt());
        Self { streams: interrupt.and_then(|interrupt| Ok([interrupt, signal(SignalKind::terminate())?])) }
    }

    async fn next(&mut self) {
        match &mut self.streams {
            Ok([interrupt, terminate]) => tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} },
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self {}
    }

    async fn next(&mut self) {
        drop(tokio::signal::ctrl_c().await);
    }
}
