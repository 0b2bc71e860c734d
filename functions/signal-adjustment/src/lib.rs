//! From sensor readings to signal plans, inside the safety envelope.
//!
//! `estimate` folds readings, `demand` tells who waits, `signal` knows what is green,
//! `latency` when a plan takes effect, `control` decides, `plan` proves the result safe,
//! `junction` keeps what lies between two steps, `workflow` reads and writes. Without features all of it is pure.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic"))]

pub mod control;
mod demand;
pub mod estimate;
pub mod junction;
mod latency;
pub mod plan;
pub mod record;
pub mod signal;
pub mod workflow;

#[cfg(feature = "stream")]
mod stream {
    use aws_lambda_events::event::kinesis::KinesisEvent;
    use aws_lambda_events::event::streams::KinesisEventResponse;
    use shared::attempts::WorkflowError;
    use shared::metrics::METRICS;
    use shared::ports::{Clock, ConditionReader, DecisionLog, IntersectionStore, JunctionStore, Quarantine};

    use crate::workflow::Workflow;

    /// Name of this function in logs and in the quarantine.
    pub const FUNCTION: &str = "signal-adjustment";

    /// Handles one Kinesis batch; answers which records have to come again.
    pub async fn handle<S, C, Q>(event: KinesisEvent, workflow: &Workflow<S, C>, quarantine: &Q) -> KinesisEventResponse
    where
        S: IntersectionStore + ConditionReader + JunctionStore + DecisionLog,
        C: Clock,
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
            readings_late = batch.sum(|tally| tally.late),
            readings_unconfigured = batch.sum(|tally| tally.unconfigured),
            decisions_made = batch.sum(|tally| tally.decisions),
            plans_held = batch.sum(|tally| tally.held),
            plans_not_followed = batch.sum(|tally| tally.strayed),
            plan_latency_ms_max = batch.done.iter().map(|tally| tally.plan_latency.tenths() * 100).max().unwrap_or_default(),
            detectors_distrusted = batch.sum(|tally| tally.distrusted),
            "a batch was processed"
        );
        batch.response
    }
}

#[cfg(feature = "stream")]
pub use stream::{FUNCTION, handle};
