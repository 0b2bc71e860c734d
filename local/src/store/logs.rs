//! Decision records, poison records and batches that were given up.
//!
//! Each log has a bound. Of decisions the oldest goes first; poison records and batches that were given up are kept until
//! somebody takes them out, so a full log refuses: the records of a shard wait on the stream rather than being lost.

use std::sync::atomic::{AtomicU64, Ordering};

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use shared::ids::IntersectionId;
use shared::plan::DecisionRecord;
use shared::ports::{DecisionLog, Page, PoisonRecord, PortError, Quarantine};
use shared::units::Timestamp;

use super::{Durability, Store, unavailable, unusable};
use crate::mapping::{Condition, Discarded};
use crate::stream::{Record, Sequence, shard_name};

/// Decision records kept per junction: half a day at one step in five seconds.
pub(super) const DECISIONS_PER_JUNCTION_MAX: u64 = 10_000;
/// Poison records kept.
const QUARANTINED_MAX: u64 = 10_000;
/// Batches kept that were given up.
const FAILED_BATCHES_MAX: u64 = 1_000;

/// (junction, event time) -> JSON.
const DECISIONS: TableDefinition<(&str, i64), &[u8]> = TableDefinition::new("decisions");
/// Junction -> number of its decisions.
const DECISION_COUNTS: TableDefinition<&str, u64> = TableDefinition::new("decision_counts");
/// Function and place -> record.
pub(super) const QUARANTINE: TableDefinition<&str, &[u8]> = TableDefinition::new("quarantine");
/// Mapping and place -> batch.
pub(super) const FAILED: TableDefinition<&str, &[u8]> = TableDefinition::new("failed_batches");

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(DECISIONS)?;
    transaction.open_table(DECISION_COUNTS)?;
    transaction.open_table(QUARANTINE)?;
    transaction.open_table(FAILED)?;
    Ok(())
}

/// A batch that a mapping gave up, as Lambda's S3 destination keeps it: what happened, and the records themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedBatch {
    /// The mapping.
    pub mapping: String,
    /// Why.
    pub condition: Condition,
    /// How often the function was called with the first record.
    pub invocations: u32,
    /// When it was given up.
    pub at: Timestamp,
    /// Name of the shard.
    pub shard: String,
    /// First record.
    pub start: Sequence,
    /// Last record.
    pub end: Sequence,
    /// The records, in order; those of other lanes between them are not among them.
    pub records: Vec<Record>,
}

impl FailedBatch {
    pub(super) fn new(mapping: &str, shard: u16, at: Timestamp, discarded: &Discarded) -> Self {
        let place = |record: Option<&std::sync::Arc<Record>>| record.map(|record| record.sequence).unwrap_or_default();
        Self {
            mapping: mapping.to_owned(),
            condition: discarded.condition,
            invocations: discarded.invocations,
            at,
            shard: shard_name(shard),
            start: place(discarded.records.first()),
            end: place(discarded.records.last()),
            records: discarded.records.iter().map(|record| record.as_ref().clone()).collect(),
        }
    }

    /// Names it; the same batch given up twice has the same id.
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.mapping, self.shard, self.start)
    }
}

/// A poison record as it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Shard and sequence number.
    pub id: String,
    /// Partition key as delivered.
    pub key: String,
    /// The bytes as delivered.
    pub data: Vec<u8>,
    /// Which function gave up on it.
    pub function: String,
    /// Why.
    pub reason: String,
    /// When it was put aside; `None` in a row from before that was kept.
    #[serde(skip)]
    pub at: Option<Timestamp>,
}

impl Quarantined {
    /// The row: the record, and behind it the time.
    fn to_bytes(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(&self.at, postcard::to_stdvec(self)?)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, postcard::Error> {
        let (record, rest): (Self, &[u8]) = postcard::take_from_bytes(bytes)?;
        Ok(Self { at: if rest.is_empty() { None } else { postcard::from_bytes(rest)? }, ..record })
    }
}

/// How much is kept of what only people can take out.
pub(super) struct Bounds {
    quarantined: AtomicU64,
    failed: AtomicU64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { quarantined: AtomicU64::new(QUARANTINED_MAX), failed: AtomicU64::new(FAILED_BATCHES_MAX) }
    }
}

impl Bounds {
    /// Keeps the batches, or none of them if there is no room; answers whether it did.
    pub(super) fn insert_failed(&self, transaction: &WriteTransaction, failed: &[(String, Vec<u8>)]) -> Result<bool, redb::Error> {
        insert_bounded(transaction, FAILED, failed, self.failed.load(Ordering::Relaxed))
    }
}

/// The error of a log that is full.
pub(super) fn full(log: &'static str) -> PortError {
    PortError::Unavailable(log, "it is full: replay or discard what lies there; until then its shard waits".into())
}

fn insert_bounded(
    transaction: &WriteTransaction,
    table: TableDefinition<'static, &'static str, &'static [u8]>,
    rows: &[(String, Vec<u8>)],
    most: u64,
) -> Result<bool, redb::Error> {
    if rows.is_empty() {
        return Ok(true);
    }
    let mut table = transaction.open_table(table)?;
    let mut len = table.len()?;
    for (id, _) in rows {
        len += u64::from(table.get(id.as_str())?.is_none());
    }
    if len > most {
        return Ok(false);
    }
    for (id, bytes) in rows {
        table.insert(id.as_str(), bytes.as_slice())?;
    }
    Ok(true)
}

impl Store {
    /// Keeps so many poison records and given-up batches from now on (10 000 and 1 000 unless set): for tests that fill them.
    pub fn bound_logs(&self, quarantined: u64, failed_batches: u64) {
        self.0.bounds.quarantined.store(quarantined, Ordering::Relaxed);
        self.0.bounds.failed.store(failed_batches, Ordering::Relaxed);
    }

    /// Batches that mappings gave up, after the id `after`.
    ///
    /// # Errors
    /// [`PortError`] if they cannot be read.
    pub fn failed_batches(&self, after: Option<&str>, limit: usize) -> Result<Page<FailedBatch>, PortError> {
        self.page(FAILED, "", after, limit, |_, bytes| postcard::from_bytes(bytes).map_err(unusable))
    }

    /// Poison records, after the key `after`.
    ///
    /// # Errors
    /// [`PortError`] if they cannot be read.
    pub fn quarantined(&self, after: Option<&str>, limit: usize) -> Result<Page<Quarantined>, PortError> {
        self.page(QUARANTINE, "", after, limit, |_, bytes| Quarantined::from_bytes(bytes).map_err(unusable))
    }
}

impl DecisionLog for Store {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        let rows = records.iter().map(|record| Ok((record.intersection_id.clone(), record.as_of, serde_json::to_vec(record)?)));
        let rows: Vec<_> = rows.collect::<Result<_, serde_json::Error>>().map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            let mut decisions = transaction.open_table(DECISIONS)?;
            let mut counts = transaction.open_table(DECISION_COUNTS)?;
            for (id, as_of, bytes) in &rows {
                let id = id.as_str();
                if decisions.insert((id, as_of.as_millis()), bytes.as_slice())?.is_some() {
                    continue;
                }
                let count = counts.get(id)?.map_or(0, |count| count.value()) + 1;
                if count > DECISIONS_PER_JUNCTION_MAX {
                    let oldest = decisions.range((id, i64::MIN)..=(id, i64::MAX))?.next().transpose()?.map(|(key, _)| key.value().1);
                    if let Some(oldest) = oldest {
                        decisions.remove((id, oldest))?;
                    }
                } else {
                    counts.insert(id, count)?;
                }
            }
            Ok(())
        };
        self.write(Durability::Ride, work, |()| ()).await
    }

    async fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> Result<Page<DecisionRecord>, PortError> {
        let first = after.map_or(from, |after| after.plus_millis(1).max(from));
        let mut items: Vec<DecisionRecord> = Vec::new();
        if first >= to {
            return Ok(Page { items, next: None });
        }
        let table = self.read()?.open_table(DECISIONS).map_err(unavailable)?;
        let range = (id.as_str(), first.as_millis())..(id.as_str(), to.as_millis());
        for row in table.range(range).map_err(unavailable)? {
            if items.len() == limit {
                let next = items.last().map(|record| record.as_of.to_string());
                return Ok(Page { items, next });
            }
            let (_, bytes) = row.map_err(unavailable)?;
            items.push(serde_json::from_slice(bytes.value()).map_err(unusable)?);
        }
        Ok(Page { items, next: None })
    }
}

impl Quarantine for Store {
    async fn quarantine(&self, record: &PoisonRecord) -> Result<(), PortError> {
        let stored = Quarantined {
            id: record.id.clone(),
            key: record.key.clone(),
            data: record.data.clone(),
            function: record.function.to_owned(),
            reason: record.reason.clone(),
            at: Some(self.0.clock.now()),
        };
        let row = (format!("{}:{}", record.function, record.id), stored.to_bytes().map_err(unusable)?);
        let most = self.0.bounds.quarantined.load(Ordering::Relaxed);
        let work = move |transaction: &WriteTransaction| {
            // The first copy stays, and with it the time.
            let known = transaction.open_table(QUARANTINE)?.get(row.0.as_str())?.is_some();
            Ok(known || insert_bounded(transaction, QUARANTINE, &[row], most)?)
        };
        let kept = self.write(Durability::Ride, work, |kept| kept).await?;
        if kept { Ok(()) } else { Err(full("the quarantine")) }
    }
}
