//! From sensor readings to signal plans, inside the safety envelope.
//!
//! `estimate` folds readings into demand, `signal` knows what is green, `control` decides, `plan` proves the result safe,
//! `junction` keeps what lies between two steps, `workflow` reads and writes. Without features all of it is pure.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic"))]

pub mod control;
pub mod estimate;
pub mod junction;
pub mod plan;
pub mod record;
pub mod signal;
pub mod workflow;

#[cfg(feature = "stream")]
mod stream {
    use aws_lambda_events::event::kinesis::KinesisEvent;
    use aws_lambda_events::event::streams::KinesisEventResponse;
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
        shared::batch::process(event, FUNCTION, quarantine, async |key: String, records| {
            let tally = workflow.handle(&key, &records).await?;
            tracing::debug!(key, ?tally, "readings folded");
            Ok::<_, shared::attempts::WorkflowError>(())
        })
        .await
    }
}

#[cfg(feature = "stream")]
pub use stream::{FUNCTION, handle};
