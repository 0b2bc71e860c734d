//! Composition root of the function sensor-ingestion on Lambda.

mod config;

use shared::aws::config::Environment;
use shared::aws::{KinesisStream, SystemClock, telemetry};

use crate::config::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let environment = Environment::of_process();
    telemetry::start(&environment);
    let settings = Settings::read(&environment).inspect_err(|error| tracing::error!(error = %error, "cannot start"))?;
    let aws = shared::aws::sdk_config().await;
    let stream = KinesisStream::new(&aws, settings.stream_name);
    let router = sensor_ingestion::router(stream, SystemClock, tokio::time::sleep, settings.times);
    lambda_http::run(shared::http::complete(router)).await
}
