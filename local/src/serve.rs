//! The suite in one process: the routes of API Gateway over the embedded store, and the functions behind the stream.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lambda_events::event::kinesis::KinesisEvent;
use axum::Router;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::serve::ListenerExt;
use shared::units::Deciseconds;
use signal_adjustment::workflow::Workflow;
use tokio::net::TcpListener;

use crate::clock::{SystemClock, Time};
use crate::mapping::Settings;
use crate::poller::{Consumer, Poller, StartError};
use crate::store::{OpenError, Store};

/// Shards of a new stream: more than the cores of a laptop would not run at once.
const SHARDS: u16 = 4;
/// The function's `Timeout` in `template.yaml`.
const FUNCTION_TIMEOUT_MS: u32 = 30_000;

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

/// A running host: the store, the functions behind the stream, and a router that is not yet served.
pub struct Host {
    store: Store,
    poller: Poller,
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

impl Host {
    /// Opens the data directory, takes the port (0: any) and starts the functions where they stopped.
    ///
    /// # Errors
    /// [`ServeError`] says what stands in the way.
    pub async fn start(directory: &Path, port: u16) -> Result<Self, ServeError> {
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
        let poller = Poller::start(&store, consumer, function, SystemClock).await?;
        Ok(Self { store, poller, directory: directory.to_owned(), listener })
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
        let page = Router::new().route("/", get(dashboard));
        shared::http::complete(ingestion.merge(operations_api::router(self.store.clone())).merge(page))
    }

    /// Answers requests until `stop`, then finishes what is under way and puts everything on disk.
    ///
    /// # Errors
    /// [`ServeError::Flush`] if the disk does not take the last writes.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let listener = self.listener.tap_io(|connection| {
            // A plan must not wait for a full packet.
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps its delay");
            }
        });
        // `axum::serve` handles errors of accepting itself and never fails.
        let _ = axum::serve(listener, router).with_graceful_shutdown(stop).await;
        self.poller.stop().await;
        self.store.flush().await.map_err(|error| ServeError::Flush(self.directory, error))
    }
}

async fn dashboard() -> impl IntoResponse {
    // The page talks to this host alone and sets everything as text.
    let policy = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(include_str!("dashboard.html")))
}
