//! Composition root of the function operations-api on Lambda.

mod config;
mod raw_path;

use lambda_http::tower::ServiceExt;
use lambda_http::{Adapter, lambda_runtime};
use shared::aws::config::Environment;
use shared::aws::{DynamoDb, EventBridge, S3Models, SystemClock, telemetry};

use crate::config::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let environment = Environment::of_process();
    telemetry::start(&environment);
    let settings = Settings::read(&environment).inspect_err(|error| tracing::error!(error = %error, "cannot start"))?;
    let aws = shared::aws::sdk_config().await;
    let store = DynamoDb::new(&aws, settings.tables, SystemClock);
    let bus = EventBridge::new(&aws, settings.event_bus);
    let models = S3Models::new(&aws, settings.models_bucket);
    let router = shared::http::complete(operations_api::router(store, SystemClock, bus, models));
    lambda_runtime::run(Adapter::from(router).map_request(raw_path::encode)).await
}
