//! `greenwave cost`: what a city costs on AWS by list prices.
//!
//! The suite runs in this process as Lambda would run it, in virtual time: `street` makes the readings, `lambda` has the
//! environments and the pollers, `meter` counts what each call is billed, `prices` has the prices, `report` adds it all up.
//! Calls and bytes are those of the true functions; CPU time is measured on this machine; times of calls are allowances.

mod lambda;
mod meter;
mod prices;
mod report;
mod street;

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::kinesis::KinesisEvent;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use futures_util::future::join_all;
use maintenance_prediction::workflow::Workflow as Maintenance;
use serde_json::{Value, json};
use shared::memory::Memory;
use shared::plan::PublishedPlan;
use shared::units::Deciseconds;
use signal_adjustment::workflow::Workflow as Signals;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt;

use self::lambda::{Function, GIB, Lines, Shards, consume};
use self::meter::{Meter, Metered};
pub use self::report::Bill;
use self::street::Street;
use crate::faults::VirtualClock;
use crate::mapping::{Outcome, Settings};
use crate::serve::{maintenance_prediction_settings, signal_adjustment_settings};

/// `CONFIGURATION_TTL_S` of template.yaml.
const CONFIGURATION_TTL: Deciseconds = Deciseconds::from_secs(60);
/// How often template.yaml calls the sweep.
const SWEEP: Duration = Duration::from_mins(5);
/// Shards of a new stream on demand. Source: Kinesis Developer Guide, "On-demand mode".
const SHARDS_ON_DEMAND: u16 = 4;
/// `MemorySize` of template.yaml in MiB, by function.
pub const MEMORY_MIB: [(&str, u32); 4] = [
    ("SensorIngestion", INGESTION_MIB),
    ("SignalAdjustment", SIGNALS_MIB),
    ("MaintenancePrediction", MAINTENANCE_MIB),
    ("OperationsApi", OPERATIONS_MIB),
];
const INGESTION_MIB: u32 = 512;
const SIGNALS_MIB: u32 = 1024;
const MAINTENANCE_MIB: u32 = 1024;
const OPERATIONS_MIB: u32 = 512;
/// A line of the access log as template.yaml formats it, and what CloudWatch adds to each.
const ACCESS_LOG_BYTES: f64 = 480.0;
/// `StreamRetentionHours` of template.yaml, by default.
pub const RETENTION_H: u32 = 72;
/// Metrics that the alarms of template.yaml look at.
pub const ALARM_METRICS: usize = 30;

/// The city to compute.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Junctions.
    #[arg(long, default_value_t = 100)]
    pub junctions: usize,
    /// Detectors of each junction; 12 of them see lanes, the others only count.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(12..=128))]
    pub detectors: u16,
    /// Seconds between two readings of a detector.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub step_s: u32,
    /// Detectors only count and no signals are controlled; a step may be up to an hour.
    #[arg(long)]
    pub counts: bool,
    /// Machines that send telemetry.
    #[arg(long, default_value_t = 0)]
    pub machines: usize,
    /// Seconds of a machine's cycle.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub cycle_s: u32,
    /// Readings of one post at most; a junction's readings of a step stay together.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub readings_per_post: u32,
    /// Shards of a provisioned stream; without it, the stream is on demand.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: Option<u16>,
    /// Minutes to simulate.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(5..=10_080))]
    pub minutes: u32,
}

/// Why the bill could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The runtime did not start.
    #[error("the simulation could not start: {0}")]
    Runtime(#[from] std::io::Error),
    /// There is nothing to compute.
    #[error("a city without junctions and machines costs nothing by the reading; give --junctions or --machines")]
    Empty,
    /// A signal cannot be controlled so seldom.
    #[error("signals are controlled in steps of at most 60 s; add --counts for detectors that only count")]
    Step,
    /// The suite refused what was made for it.
    #[error("{0}")]
    Refused(String),
}

/// Runs the city and adds up what it used.
///
/// # Errors
/// [`CostError`] says what is wrong with the city.
pub fn run(args: &Args) -> Result<Bill, CostError> {
    if args.junctions == 0 && args.machines == 0 {
        return Err(CostError::Empty);
    }
    if !args.counts && args.junctions > 0 && args.step_s > 60 {
        return Err(CostError::Step);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(simulate(args))
}

/// How template.yaml has the stream call the functions; the local host differs where it says so.
pub fn deployed_settings() -> [Settings; 2] {
    [
        Settings { maximum_record_age_in_seconds: 60, maximum_batching_window_in_seconds: 1, ..signal_adjustment_settings() },
        Settings { maximum_record_age_in_seconds: 255_600, maximum_batching_window_in_seconds: 300, ..maintenance_prediction_settings() },
    ]
}

type MaintenanceWorkflow = Maintenance<Metered, Metered, Metered, VirtualClock>;

struct Suite {
    meter: Meter,
    stream: Shards,
    ingestion: Function<Router>,
    signals: Function<(Signals<Metered, VirtualClock>, Metered)>,
    maintenance: Function<(MaintenanceWorkflow, Metered)>,
    operations: Function<Router>,
}

impl Suite {
    fn new(args: &Args, memory: &Memory, clock: &VirtualClock) -> Self {
        let meter = Meter::default();
        let metered = {
            let (memory, meter) = (memory.clone(), meter.clone());
            move || Metered::new(&memory, &meter)
        };
        let stream = Shards::new(args.shards.unwrap_or(SHARDS_ON_DEMAND), args.shards.is_some(), clock.clone(), metered());
        let lines = |requests, duration, logs| Lines { requests, duration, logs };
        let ingestion = {
            let (stream, metered, clock) = (stream.clone(), metered.clone(), clock.clone());
            Function::new(lines("ingestion: requests", "ingestion: time", "ingestion: logs"), INGESTION_MIB, &meter, move || {
                let metered = metered();
                let calls = Arc::clone(&metered.calls);
                let config = sensor_ingestion::Config::default();
                let router = sensor_ingestion::router(stream.seen_by(metered), clock.clone(), tokio::time::sleep, config);
                (shared::http::complete(router), calls)
            })
        };
        let signals = {
            let (metered, clock) = (metered.clone(), clock.clone());
            Function::new(lines("signals: requests", "signals: time", "signals: logs"), SIGNALS_MIB, &meter, move || {
                let metered = metered();
                let calls = Arc::clone(&metered.calls);
                ((Signals::new(metered.clone(), clock.clone(), CONFIGURATION_TTL), metered), calls)
            })
        };
        let maintenance = {
            let (metered, clock) = (metered.clone(), clock.clone());
            Function::new(lines("maintenance: requests", "maintenance: time", "maintenance: logs"), MAINTENANCE_MIB, &meter, move || {
                let m = metered();
                let calls = Arc::clone(&m.calls);
                ((Maintenance::new(m.clone(), m.clone(), m.clone(), clock.clone(), CONFIGURATION_TTL), m), calls)
            })
        };
        let operations = {
            let clock = clock.clone();
            Function::new(
                lines("plans fetched: requests", "plans fetched: time", "plans fetched: logs"),
                OPERATIONS_MIB,
                &meter,
                move || {
                    let m = metered();
                    let calls = Arc::clone(&m.calls);
                    (shared::http::complete(operations_api::router(m.clone(), clock.clone(), m.clone(), m)), calls)
                },
            )
        };
        Self { meter, stream, ingestion, signals, maintenance, operations }
    }

    /// The two consumers of the stream, and the schedule of one of them; they never end.
    async fn work(&self) {
        let [signals, maintenance] = deployed_settings();
        let handle_signals = async |(workflow, metered): &(Signals<_, _>, Metered), payload: &[u8]| match parsed(payload) {
            Some(event) => Outcome::Response(signal_adjustment::handle(event, workflow, metered).await),
            None => Outcome::Failed,
        };
        let handle_maintenance = async |(workflow, metered): &(MaintenanceWorkflow, Metered), payload: &[u8]| match parsed(payload) {
            Some(event) => Outcome::Response(maintenance_prediction::handle(event, workflow, metered).await),
            None => Outcome::Failed,
        };
        let shards = 0..self.stream.count();
        let signals = join_all(shards.clone().map(|shard| consume(&self.stream, shard, signals.clone(), &self.signals, handle_signals)));
        let maintenance =
            join_all(shards.map(|shard| consume(&self.stream, shard, maintenance.clone(), &self.maintenance, handle_maintenance)));
        let sweeps = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                let swept = self.maintenance.call(async |(workflow, _)| workflow.sweep().await).await;
                tracing::debug!(?swept, "swept");
            }
        };
        tokio::join!(signals, maintenance, sweeps);
    }

    /// One request to a function behind the API.
    async fn request(&self, function: &Function<Router>, what: [&'static str; 2], request: Request<Body>) -> Result<Value, CostError> {
        self.meter.add(what[0], &prices::API_REQUEST, 1.0);
        self.meter.add(what[1], &prices::LOG_IN, ACCESS_LOG_BYTES / GIB);
        let path = request.uri().to_string();
        let answer = function.call(async |router| {
            let answer = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
            let (parts, body) = answer.into_parts();
            (parts.status, axum::body::to_bytes(body, 16 << 20).await)
        });
        let (status, body) = answer.await;
        let body: Value = body.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        if status.is_success() { Ok(body) } else { Err(CostError::Refused(format!("{path} was answered {status}: {body}"))) }
    }

    async fn post(&self, readings: &[Value]) -> Result<u64, CostError> {
        let body = Body::from(json!({"readings": readings}).to_string());
        let request = Request::post("/v1/readings").header(header::CONTENT_TYPE, "application/json").body(body);
        let request = request.map_err(|error| CostError::Refused(error.to_string()))?;
        let answer = self.request(&self.ingestion, ["API: posts", "API: access log of posts"], request).await?;
        Ok(answer.get("accepted").and_then(Value::as_u64).unwrap_or_default())
    }

    async fn plans(&self) -> Result<Vec<PublishedPlan>, CostError> {
        let (mut plans, mut cursor) = (Vec::new(), String::new());
        loop {
            let request = Request::get(format!("/v1/plans?limit=500&cursor={cursor}")).body(Body::empty());
            let request = request.map_err(|error| CostError::Refused(error.to_string()))?;
            let mut page = self.request(&self.operations, ["plans fetched: API", "plans fetched: access log"], request).await?;
            let items = page.get_mut("items").map(Value::take).unwrap_or_default();
            let items: Vec<PublishedPlan> = serde_json::from_value(items).map_err(|error| CostError::Refused(error.to_string()))?;
            plans.extend(items);
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(next) => next.clone_into(&mut cursor),
                None => return Ok(plans),
            }
        }
    }

    /// The day of the city: posts as they come, plans taken to the signals.
    async fn day(&self, args: &Args, street: &mut Street, minutes: u32) -> Result<u64, CostError> {
        let mut accepted = 0;
        for second in 0..minutes * 60 {
            let due = Instant::now() + Duration::from_secs(1);
            let posts = street.second(second);
            for answer in join_all(posts.iter().map(|readings| self.post(readings))).await {
                accepted += answer?;
            }
            if !args.counts && args.junctions > 0 && second % args.step_s == args.step_s / 2 {
                street.take(self.plans().await?);
            }
            sleep_until(due).await;
        }
        Ok(accepted)
    }
}

fn parsed(payload: &[u8]) -> Option<KinesisEvent> {
    serde_json::from_slice(payload).ok()
}

async fn simulate(args: &Args) -> Result<Bill, CostError> {
    let clock = VirtualClock::at(street::MORNING);
    let memory = Memory::new();
    let mut street = Street::new(args, street::MORNING);
    street.prepare(args, &memory).await?;
    let suite = Suite::new(args, &memory, &clock);
    let readings = tokio::select! {
        biased;
        readings = async {
            // A window of maintenance, and every environment is warm.
            suite.day(args, &mut street, 6).await?;
            suite.meter.reset();
            suite.day(args, &mut street, args.minutes).await
        } => readings?,
        () = suite.work() => 0,
    };
    let environments = [suite.signals.environments(), suite.maintenance.environments()];
    Ok(Bill::new(args, readings, &suite.meter.lines(), environments, &street::stored(&memory).await))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a small city costs; a minute of it is simulated in a moment.
    fn bill(args: &[&str]) -> Bill {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        let cli = <Cli as clap::Parser>::parse_from(["cost"].iter().chain(args));
        run(&cli.args).unwrap()
    }

    #[test]
    fn a_step_of_a_junction_is_one_write_of_its_row_and_each_post_is_one_request() {
        let bill = bill(&["--junctions", "7", "--minutes", "5"]);
        // 7 junctions with 12 detectors and a signal make a post of 91 readings.
        assert!((bill.units("API: posts") - 1e6 / 91.0).abs() < 1.0, "{bill}");
        assert!((bill.units("plan and state write") - 7e6 / 91.0).abs() < 0.02 * 7e6 / 91.0, "{bill}");
        assert!(bill.to_string().contains("us-east-1"));
    }

    #[test]
    fn machines_and_counts_alone_make_no_plan() {
        let bill = bill(&["--junctions", "1", "--counts", "--step-s", "60", "--machines", "3", "--minutes", "10", "--shards", "1"]);
        assert!(bill.part("plan") < 1e-9 && bill.part("condition write") > 0.0 && bill.units("stream: shard hours") > 0.0, "{bill}");
    }

    #[test]
    fn a_city_without_readings_and_signals_every_ten_minutes_are_refused() {
        let args = |junctions, step_s| Args {
            junctions,
            detectors: 12,
            step_s,
            counts: false,
            machines: 0,
            cycle_s: 60,
            readings_per_post: 100,
            shards: None,
            minutes: 5,
        };
        assert!(matches!(run(&args(0, 5)), Err(CostError::Empty)));
        assert!(matches!(run(&args(1, 600)), Err(CostError::Step)));
    }
}
