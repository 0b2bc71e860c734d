//! What lies in the quarantine, as people see it: poison records, batches that were given up, and what was sent again.
//!
//! A record on the stream carries nothing besides its key and bytes. So one that comes back after a replay is known by the
//! digest of both, and by its place behind the one that was sent again.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::units::Timestamp;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A record that can never be processed as it is.
    Poison,
    /// Records that an event source mapping gave up.
    FailedBatch,
    /// Something of which only the place is known; the entry's reason says why.
    Unreadable,
}

/// A record as the stream delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRecord {
    /// Name of its shard.
    pub shard: String,
    /// Its sequence number.
    pub sequence: String,
    /// Its partition key.
    pub key: String,
    /// Its bytes.
    pub data: Vec<u8>,
    /// When the stream took it; not known of poison records.
    pub arrived_at: Option<Timestamp>,
}

/// A sequence number that compares as a number, whatever its length: the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamOrder(usize, String);

impl StreamOrder {
    /// The order of a decimal sequence number.
    pub fn of(sequence: &str) -> Self {
        let digits = sequence.trim_start_matches('0');
        Self(digits.len(), digits.to_owned())
    }
}

impl HeldRecord {
    /// Its place among the records of its key.
    pub fn order(&self) -> StreamOrder {
        StreamOrder::of(&self.sequence)
    }

    /// SHA-256 of key and bytes in hexadecimal digits: the same for the same content, wherever it lies on the stream.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        // The length keeps key and bytes apart.
        hash.update(u64::try_from(self.key.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(&self.key);
        hash.update(&self.data);
        hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// One entry of the quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names it in its quarantine.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// The function that could not process it; empty if that is not known.
    pub function: String,
    /// When it was put aside; `None` if that was not kept.
    pub at: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Its records in the order of their shard: one, or those of a batch; none if it is unreadable.
    pub records: Vec<HeldRecord>,
}

impl Entry {
    /// An entry that cannot be read, and why.
    pub fn unreadable(id: impl Into<String>, at: Option<Timestamp>, reason: impl Into<String>) -> Self {
        Self { id: id.into(), kind: Kind::Unreadable, function: String::new(), at, reason: reason.into(), records: Vec::new() }
    }

    /// Bytes of its records.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.data.len()).sum()
    }
}

/// Why a batch was given up, in words.
pub fn given_up(condition: &str, calls: u32) -> String {
    format!("{condition} after {calls} {}", if calls == 1 { "call" } else { "calls" })
}

/// What is kept of an entry whose records were sent again; the bytes are not, they are on the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Id of the entry.
    pub id: String,
    /// What it was.
    pub kind: Kind,
    /// The function that could not process it.
    pub function: String,
    /// When it was put aside, if that was kept.
    pub at: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// When the replay began.
    pub replayed_at: Timestamp,
    /// Its records.
    pub records: Vec<ReplayedRecord>,
}

/// A record that was sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedRecord {
    /// Sequence number that it had in the quarantine.
    pub sequence: String,
    /// [`HeldRecord::digest`].
    pub digest: String,
}

impl Replayed {
    /// What is kept of the entry.
    pub fn of(entry: &Entry, replayed_at: Timestamp) -> Self {
        let record = |record: &HeldRecord| ReplayedRecord { sequence: record.sequence.clone(), digest: record.digest() };
        Self {
            id: entry.id.clone(),
            kind: entry.kind,
            function: entry.function.clone(),
            at: entry.at,
            reason: entry.reason.clone(),
            replayed_at,
            records: entry.records.iter().map(record).collect(),
        }
    }
}

#[cfg(feature = "batch")]
pub use invocation::failed_batch;

#[cfg(feature = "batch")]
mod invocation {
    use aws_lambda_events::event::kinesis::{KinesisEvent, KinesisEventRecord};
    use serde::Deserialize;

    use super::{Entry, HeldRecord, Kind, given_up};
    use crate::units::Timestamp;

    /// What Lambda writes to an S3 destination; more fields may follow.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InvocationRecord {
        request_context: RequestContext,
        #[serde(rename = "KinesisBatchInfo")]
        batch: BatchInfo,
        /// The event of the function as JSON text; other destinations than S3 do not get it.
        payload: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RequestContext {
        function_arn: String,
        condition: String,
        #[serde(default)]
        approximate_invoke_count: u32,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct BatchInfo {
        shard_id: String,
        start_sequence_number: String,
        end_sequence_number: String,
        batch_size: usize,
    }

    /// Reads the object that Lambda writes for a batch that its event source mapping gave up.
    ///
    /// Source: AWS Lambda Developer Guide, "Retain discarded batch records for a Kinesis Data Streams event source".
    pub fn failed_batch(id: &str, at: Option<Timestamp>, json: &[u8]) -> Entry {
        let record: InvocationRecord = match serde_json::from_slice(json) {
            Ok(record) => record,
            Err(error) => return Entry::unreadable(id, at, format!("not the record of an invocation: {error}")),
        };
        let BatchInfo { shard_id, start_sequence_number: start, end_sequence_number: end, batch_size } = record.batch;
        let place = format!("{batch_size} records of {shard_id} from {start} to {end}");
        let Some(payload) = record.payload else {
            return Entry::unreadable(id, at, format!("the place alone was kept: {place}"));
        };
        let event: KinesisEvent = match serde_json::from_str(&payload) {
            Ok(event) => event,
            Err(error) => return Entry::unreadable(id, at, format!("its payload is no Kinesis event ({error}): {place}")),
        };
        if event.records.is_empty() {
            return Entry::unreadable(id, at, format!("its payload has no records: {place}"));
        }
        let RequestContext { function_arn, condition, approximate_invoke_count } = record.request_context;
        Entry {
            id: id.to_owned(),
            kind: Kind::FailedBatch,
            function: function_name(&function_arn).to_owned(),
            at,
            reason: given_up(&condition, approximate_invoke_count),
            records: event.records.into_iter().map(|record| held(record, &shard_id)).collect(),
        }
    }

    fn held(record: KinesisEventRecord, shard: &str) -> HeldRecord {
        HeldRecord {
            shard: shard.to_owned(),
            sequence: record.kinesis.sequence_number,
            key: record.kinesis.partition_key,
            data: record.kinesis.data.0,
            arrived_at: Some(Timestamp::from_millis(record.kinesis.approximate_arrival_timestamp.timestamp_millis())),
        }
    }

    /// `NAME` in `arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]`.
    fn function_name(arn: &str) -> &str {
        arn.split(':').nth(6).unwrap_or(arn)
    }
}

#[cfg(test)]
mod tests;
