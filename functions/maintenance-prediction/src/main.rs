//! Composition root of the function maintenance-prediction on Lambda: batches of the stream, and the sweep of a schedule.

mod config;

use aws_lambda_events::event::kinesis::KinesisEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use maintenance_prediction::workflow::Workflow;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::aws::config::Environment;
use shared::aws::{DynamoDb, EventBridge, S3Models, S3Quarantine, SystemClock, telemetry};

use crate::config::Settings;

/// What the function is called with.
#[derive(Deserialize)]
#[serde(untagged)]
enum Call {
    /// The schedule's input in `template.yaml`: `{"greenwave": "sweep"}`.
    Schedule { greenwave: Task },
    /// A batch of the stream.
    Batch(KinesisEvent),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Task {
    Sweep,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let environment = Environment::of_process();
    telemetry::start(&environment);
    let settings = Settings::read(&environment).inspect_err(|error| tracing::error!(error = %error, "cannot start"))?;
    let aws = shared::aws::sdk_config().await;
    let store = DynamoDb::new(&aws, settings.tables, SystemClock);
    let bus = EventBridge::new(&aws, settings.event_bus);
    let models = S3Models::new(&aws, settings.models_bucket);
    let quarantine = S3Quarantine::new(&aws, settings.quarantine_bucket);
    let workflow = Workflow::new(store, bus, models, SystemClock, settings.configuration_ttl);
    let (workflow, quarantine) = (&workflow, &quarantine);
    let handler = |event: LambdaEvent<Call>| async move {
        match event.payload {
            Call::Batch(batch) => Ok(json!(maintenance_prediction::handle(batch, workflow, quarantine).await)),
            Call::Schedule { greenwave: Task::Sweep } => {
                workflow.sweep().await?;
                Ok::<Value, Error>(Value::Null)
            }
        }
    };
    lambda_runtime::run(service_fn(handler)).await
}
