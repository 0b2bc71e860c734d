//! The suite in one process: the routes of API Gateway over the embedded store, and the functions behind the stream.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lambda_events::event::kinesis::KinesisEvent;
use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use shared::units::Deciseconds;
use signal_adjustment::workflow::Workflow;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::{SystemClock, Time};
use crate::events::{Events, Webhook};
use crate::front::{self, Limits};
use crate::mapping::Settings;
use crate::models::ModelDirectory;
use crate::poller::{Consumer, Poller, StartError};
use crate::store::{OpenError, Store};

/// Shards of a new stream: more than the cores of a laptop would not run at once.
const SHARDS: u16 = 4;
/// The functions' `Timeout` in `template.yaml`.
const FUNCTION_TIMEOUT_MS: u32 = 30_000;
/// How often intersections are looked for that fell silent; Lambda has a schedule for it.
const SWEEP_MS: i64 = 60_000;

/// Why the host could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A function could not be connected to the stream.
    #[error("the stream could not be read: {0}")]
    Start(#[from] StartError),
    /// The port cannot be used.
    #[error("port {port} of 127.0.0.1 cannot be used: {cause}. Choose another with --port")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The last writes could not be put on disk.
    #[error("{0} could not be completed: {1}")]
    Flush(PathBuf, shared::ports::PortError),
}

/// What a host does besides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the events of alerts are posted to.
    pub webhook: Option<Webhook>,
    /// Where models lie that are not shipped, as `NAME.model`.
    pub models: PathBuf,
}

/// A running host: the store, the functions behind the stream, and a router that is not yet served.
pub struct Host {
    store: Store,
    pollers: [Poller; 2],
    sweeps: JoinHandle<()>,
    events: Events,
    models: ModelDirectory,
    directory: PathBuf,
    listener: TcpListener,
}

/// How the stream calls `signal-adjustment`; `template.yaml` says the same to Lambda, but here a record never gets too old: a
/// laptop may have been closed over the weekend.
pub fn signal_adjustment_settings() -> Settings {
    Settings {
        batch_size: 200,
        parallelization_factor: 2,
        report_batch_item_failures: true,
        bisect_batch_on_function_error: true,
        maximum_retry_attempts: 5,
        maximum_record_age_in_seconds: -1,
        ..Settings::default()
    }
}

/// How the stream calls `maintenance-prediction`; here a batch does not wait to be filled, so that an alert is seen at once.
pub fn maintenance_prediction_settings() -> Settings {
    Settings { batch_size: 10_000, parallelization_factor: 1, maximum_retry_attempts: 100, ..signal_adjustment_settings() }
}

impl Host {
    /// Opens the data directory, takes the port (0: any) and starts the functions where they stopped.
    ///
    /// # Errors
    /// [`ServeError`] says what stands in the way.
    pub async fn start(directory: &Path, port: u16, options: Options) -> Result<Self, ServeError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|cause| ServeError::Port { port, cause })?;
        let store = Store::open(directory, SHARDS, SystemClock)?;
        // Reading a configuration is cheap here, so none is trusted for longer than one batch.
        let workflow = Arc::new(Workflow::new(store.clone(), SystemClock, Deciseconds::ZERO));
        let quarantine = store.clone();
        let function = move |event: KinesisEvent| {
            let (workflow, quarantine) = (Arc::clone(&workflow), quarantine.clone());
            async move { Ok::<_, Infallible>(signal_adjustment::handle(event, &workflow, &quarantine).await) }
        };
        let consumer =
            Consumer { name: signal_adjustment::FUNCTION, settings: signal_adjustment_settings(), timeout_ms: FUNCTION_TIMEOUT_MS };
        let signals = Poller::start(&store, consumer, function, SystemClock).await?;
        let (events, models) = (Events::new(options.webhook), ModelDirectory(options.models));
        let (maintenance, sweeps) = start_maintenance(&store, &events, &models).await?;
        Ok(Self { store, pollers: [signals, maintenance], sweeps, events, models, directory: directory.to_owned(), listener })
    }

    /// Where it will answer.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or_else(|_| (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// All routes, as API Gateway has them, and a page at `/` that shows plans and decisions. The clock window is open, so that recorded data can be replayed.
    pub fn router(&self) -> Router {
        let sleep = |time: std::time::Duration| async move {
            SystemClock.sleep(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)).await;
        };
        let window = sensor_ingestion::Config { oldest: None, furthest_ahead: None };
        let ingestion = sensor_ingestion::router(self.store.clone(), SystemClock, sleep, window);
        let page = Router::new().route("/", get(dashboard)).route("/dashboard.js", get(dashboard_script));
        let operations = operations_api::router(self.store.clone(), SystemClock, self.events.clone(), self.models.clone());
        shared::http::complete(front::refuse_strangers(Limits::LOCAL.on(ingestion.merge(operations).merge(page))))
    }

    /// Answers requests until `stop`, then finishes what is under way and puts everything on disk.
    ///
    /// # Errors
    /// [`ServeError::Flush`] if the disk does not take the last writes.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        front::serve(self.listener, router, Limits::LOCAL, stop).await;
        self.sweeps.abort();
        for poller in self.pollers {
            poller.stop().await;
        }
        self.store.flush().await.map_err(|error| ServeError::Flush(self.directory, error))
    }
}

/// Connects `maintenance-prediction` to the stream and to a schedule of its own.
async fn start_maintenance(store: &Store, events: &Events, models: &ModelDirectory) -> Result<(Poller, JoinHandle<()>), StartError> {
    use maintenance_prediction::workflow::Workflow;
    let workflow = Workflow::new(store.clone(), events.clone(), models.clone(), SystemClock, Deciseconds::ZERO);
    let (workflow, quarantine) = (Arc::new(workflow), store.clone());
    let swept = Arc::clone(&workflow);
    let function = move |event: KinesisEvent| {
        let (workflow, quarantine) = (Arc::clone(&workflow), quarantine.clone());
        async move { Ok::<_, Infallible>(maintenance_prediction::handle(event, &workflow, &quarantine).await) }
    };
    let settings = maintenance_prediction_settings();
    let consumer = Consumer { name: maintenance_prediction::FUNCTION, settings, timeout_ms: FUNCTION_TIMEOUT_MS };
    let poller = Poller::start(store, consumer, function, SystemClock).await?;
    let sweeps = tokio::spawn(async move {
        loop {
            SystemClock.sleep(SWEEP_MS).await;
            if let Err(error) = swept.sweep().await {
                tracing::warn!(%error, "a sweep did not come to its end");
            }
        }
    });
    Ok((poller, sweeps))
}

/// The page talks to this host alone, sets everything as text, and runs no script but its own file.
async fn dashboard() -> impl IntoResponse {
    let policy = "default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; script-src 'self'; \
                  style-src 'unsafe-inline'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(include_str!("dashboard.html")))
}

async fn dashboard_script() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("dashboard.js"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_dashboard_makes_no_markup_of_what_it_shows_and_may_run_no_script_but_its_own() {
        let headers = dashboard().await.into_response().headers().clone();
        let policy = headers.get(CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
        for directive in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split(';').any(|given| given.trim() == directive), "{directive}: {policy}");
        }
        let (page, script) = (include_str!("dashboard.html"), include_str!("dashboard.js"));
        assert_eq!(page.matches("<script").count(), page.matches(r#"<script src="dashboard.js"></script>"#).count());
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "createContextualFragment",
            "DOMParser",
            "document.write",
            "eval(",
            "Function(",
        ] {
            assert!(!script.contains(way), "{way}");
        }
    }
}
