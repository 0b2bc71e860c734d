//! Composition root of the function operations-api on Lambda.

mod config;

use shared::aws::config::Environment;
use shared::aws::{DynamoDb, SystemClock, telemetry};

use crate::config::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let environment = Environment::of_process();
    telemetry::start(&environment);
    let settings = Settings::read(&environment).inspect_err(|error| tracing::error!(error = %error, "cannot start"))?;
    let aws = shared::aws::sdk_config().await;
    let store = DynamoDb::new(&aws, settings.tables, settings.decisions_retention_days, SystemClock);
    lambda_http::run(shared::http::complete(operations_api::router(store))).await
}
