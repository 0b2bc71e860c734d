//! From sensor readings to condition, remaining life and alerts, in the blocks of ISO 13374.
//!
//! `detector` knows the detectors of an intersection, `machine` everything that sends telemetry; both turn readings into
//! indicators, states and health. `advisory` turns their faults into alerts, `state` holds what lies between two batches,
//! `workflow` reads and writes. Without features all of it is pure.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic"))]

pub mod advisory;
pub mod detector;
pub mod machine;
pub mod state;
pub mod workflow;

#[cfg(feature = "stream")]
mod stream {
    use aws_lambda_events::event::kinesis::KinesisEvent;
    use aws_lambda_events::event::streams::KinesisEventResponse;
    use shared::attempts::WorkflowError;
    use shared::metrics::METRICS;
    use shared::ports::{AlertStore, Clock, ConditionReader, ConditionStore, EventBus, IntersectionStore, ModelSource, Quarantine};

    use crate::workflow::Workflow;

    /// Name of this function in logs and in the quarantine.
    pub const FUNCTION: &str = "maintenance-prediction";

    /// Handles one Kinesis batch; answers which records have to come again.
    pub async fn handle<S, B, M, C, Q>(event: KinesisEvent, workflow: &Workflow<S, B, M, C>, quarantine: &Q) -> KinesisEventResponse
    where
        S: ConditionStore + ConditionReader + AlertStore + IntersectionStore,
        B: EventBus,
        M: ModelSource,
        C: Clock + Clone + 'static,
        Q: Quarantine,
    {
        let records = event.records.len();
        let batch = shared::batch::process(event, FUNCTION, quarantine, async |key: String, records| {
            let tally = workflow.handle(&key, &records).await?;
            tracing::debug!(key, ?tally, "readings folded");
            Ok::<_, WorkflowError>(tally)
        })
        .await;
        tracing::info!(
            target: METRICS,
            records_taken = records,
            records_quarantined = batch.quarantined,
            keys_failed = batch.response.batch_item_failures.len(),
            iterator_age_ms_max = batch.age_ms(workflow.now()),
            readings_folded = batch.sum(|tally| tally.folded),
            alerts_raised = batch.sum(|tally| tally.alerts.raised),
            alerts_cleared = batch.sum(|tally| tally.alerts.cleared),
            "a batch was processed"
        );
        batch.response
    }
}

#[cfg(feature = "stream")]
pub use stream::{FUNCTION, handle};
