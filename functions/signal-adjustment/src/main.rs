//! Composition root of the function signal-adjustment on Lambda.

mod config;

use std::convert::Infallible;

use aws_lambda_events::event::kinesis::KinesisEvent;
use lambda_runtime::{LambdaEvent, service_fn};
use shared::aws::config::Environment;
use shared::aws::{DynamoDb, S3Quarantine, SystemClock, telemetry};
use signal_adjustment::workflow::Workflow;

use crate::config::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let environment = Environment::of_process();
    telemetry::start(&environment);
    let settings = Settings::read(&environment).inspect_err(|error| tracing::error!(error = %error, "cannot start"))?;
    let aws = shared::aws::sdk_config().await;
    let store = DynamoDb::new(&aws, settings.tables, SystemClock);
    let quarantine = S3Quarantine::new(&aws, settings.quarantine_bucket);
    let workflow = Workflow::new(store, SystemClock, settings.configuration_ttl);
    let (workflow, quarantine) = (&workflow, &quarantine);
    let handler = |event: LambdaEvent<KinesisEvent>| async move {
        Ok::<_, Infallible>(signal_adjustment::handle(event.payload, workflow, quarantine).await)
    };
    lambda_runtime::run(service_fn(handler)).await
}
