//! Kinesis batches: from the records of an event to groups by key, and from their outcomes to `batchItemFailures`.
//!
//! The first failure of a key stops that key, not the shard. Kinesis sends everything again from the lowest failed sequence
//! number, so the groups behind it see replays; their effects are idempotent by shape. A record that can never succeed is
//! quarantined with its bytes and the reason, and passed. A panic counts as a failure of its key alone.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use aws_lambda_events::event::kinesis::{KinesisEvent, KinesisEventRecord};
use aws_lambda_events::event::streams::{KinesisBatchItemFailure, KinesisEventResponse};
use futures_util::{FutureExt, StreamExt};

use crate::ports::{PoisonRecord, PortError, Quarantine};
use crate::units::Timestamp;
use crate::wire::{PoisonedRecord, ReadingRecord};

/// Groups worked on, or poison records put aside, at once: enough to hide the latency of a store, few enough for its connections.
const CONCURRENT_KEYS: usize = 32;

/// What became of a batch.
#[derive(Debug)]
pub struct Processed<T> {
    /// Which records have to come again.
    pub response: KinesisEventResponse,
    /// What was answered for each key whose records took effect.
    pub done: Vec<T>,
    /// Records that can never succeed and were put aside.
    pub quarantined: usize,
    /// When the oldest record arrived on the stream.
    pub oldest: Option<Timestamp>,
}

impl<T> Processed<T> {
    /// A count, over all keys.
    pub fn sum(&self, count: impl Fn(&T) -> u32) -> u32 {
        self.done.iter().map(count).sum()
    }

    /// How long the oldest record had lain on the stream, in ms.
    pub fn age_ms(&self, now: Timestamp) -> i64 {
        self.oldest.map_or(0, |oldest| now.as_millis().saturating_sub(oldest.as_millis()))
    }
}

/// Handles one batch: decodes, groups by key, hands each group in order to `handle` and reports the failures.
///
/// `handle` gets the records of one key and answers whether they took effect; what it shares with other calls must bear that
/// one of them panics. Groups run concurrently.
pub async fn process<Q, F, H, T, E>(event: KinesisEvent, function: &'static str, quarantine: &Q, handle: H) -> Processed<T>
where
    Q: Quarantine,
    H: Fn(String, Vec<ReadingRecord>) -> F,
    F: Future<Output = Result<T, E>>,
    E: std::error::Error,
{
    let arrivals = event.records.iter().map(|record| record.kinesis.approximate_arrival_timestamp.timestamp_millis());
    let oldest = arrivals.min().map(Timestamp::from_millis);
    let mut poison = Vec::new();
    let mut groups: HashMap<String, (String, Vec<ReadingRecord>)> = HashMap::new();
    let mut order = Vec::new();
    for record in event.records {
        let sequence_number = record.kinesis.sequence_number.clone();
        match ReadingRecord::from_bytes(&record.kinesis.data) {
            Ok(reading) => {
                let key = reading.key.clone();
                let group = groups.entry(key.clone()).or_insert_with(|| {
                    order.push(key);
                    (sequence_number, Vec::new())
                });
                group.1.push(reading);
            }
            Err(reason) => poison.push((sequence_number, record, reason)),
        }
    }
    let poisoned = poison.len();
    // One that cannot be put aside comes again.
    let mut failures: Vec<String> = futures_util::stream::iter(poison)
        .map(|(sequence_number, record, reason)| async move {
            let outcome = put_aside(&record, function, &reason, quarantine).await;
            let lost = outcome.inspect_err(|error| tracing::error!(sequence_number, %error, "a poison record could not be quarantined"));
            lost.is_err().then_some(sequence_number)
        })
        .buffer_unordered(CONCURRENT_KEYS)
        .filter_map(std::future::ready)
        .collect()
        .await;
    let quarantined = poisoned - failures.len();
    let work = order.into_iter().filter_map(|key| groups.remove(&key).map(|group| (key, group)));
    let handle = &handle;
    let outcomes: Vec<_> = futures_util::stream::iter(work)
        .map(|(key, (first, records))| async move {
            let outcome = AssertUnwindSafe(async { handle(key.clone(), records).await }).catch_unwind().await;
            (key, first, outcome)
        })
        .buffer_unordered(CONCURRENT_KEYS)
        .collect()
        .await;
    let mut done = Vec::with_capacity(outcomes.len());
    for (key, first, outcome) in outcomes {
        match outcome {
            Ok(Ok(answer)) => {
                done.push(answer);
                continue;
            }
            Ok(Err(error)) => {
                tracing::warn!(key, sequence_number = first, error = %error, "the records of a key failed and will come again");
            }
            Err(_) => tracing::error!(key, sequence_number = first, "a panic stopped the records of a key; they will come again"),
        }
        failures.push(first);
    }
    // The lowest first: it is where Kinesis starts again.
    failures.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let mut response = KinesisEventResponse::default();
    response.batch_item_failures = failures
        .into_iter()
        .map(|sequence_number| {
            let mut failure = KinesisBatchItemFailure::default();
            failure.item_identifier = Some(sequence_number);
            failure
        })
        .collect();
    Processed { response, done, quarantined, oldest }
}

async fn put_aside<Q: Quarantine>(
    record: &KinesisEventRecord,
    function: &'static str,
    reason: &PoisonedRecord,
    quarantine: &Q,
) -> Result<(), PortError> {
    let id = record.event_id.clone().unwrap_or_else(|| record.kinesis.sequence_number.clone());
    tracing::warn!(record = id, function, reason = %reason, "a poison record goes to the quarantine");
    let poison = PoisonRecord {
        id,
        key: record.kinesis.partition_key.clone(),
        data: record.kinesis.data.to_vec(),
        function,
        reason: reason.to_string(),
    };
    quarantine.quarantine(&poison).await
}

#[cfg(test)]
mod tests;
