//! Decision records, poison records and batches that were given up. Each log has a bound; what lies first goes first.

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
pub(super) const QUARANTINED_MAX: u64 = 10_000;
/// Batches kept that were given up.
pub(super) const FAILED_BATCHES_MAX: u64 = 1_000;

/// (junction, event time) -> JSON.
const DECISIONS: TableDefinition<(&str, i64), &[u8]> = TableDefinition::new("decisions");
/// Junction -> number of its decisions.
const DECISION_COUNTS: TableDefinition<&str, u64> = TableDefinition::new("decision_counts");
/// Function and place -> record.
const QUARANTINE: TableDefinition<&str, &[u8]> = TableDefinition::new("quarantine");
/// Mapping and place -> batch.
const FAILED: TableDefinition<&str, &[u8]> = TableDefinition::new("failed_batches");

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
}

pub(super) fn insert_failed(transaction: &WriteTransaction, failed: &[(String, Vec<u8>)]) -> Result<(), redb::Error> {
    if failed.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(FAILED)?;
    for (id, batch) in failed {
        insert_bounded(&mut table, id, batch, FAILED_BATCHES_MAX)?;
    }
    Ok(())
}

fn insert_bounded(table: &mut redb::Table<'_, &'static str, &'static [u8]>, id: &str, bytes: &[u8], most: u64) -> Result<(), redb::Error> {
    table.insert(id, bytes)?;
    if table.len()? > most {
        table.pop_first()?;
    }
    Ok(())
}

impl Store {
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
        self.page(QUARANTINE, "", after, limit, |_, bytes| postcard::from_bytes(bytes).map_err(unusable))
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
        };
        let key = format!("{}:{}", record.function, record.id);
        let bytes = postcard::to_stdvec(&stored).map_err(unusable)?;
        let work =
            move |transaction: &WriteTransaction| insert_bounded(&mut transaction.open_table(QUARANTINE)?, &key, &bytes, QUARANTINED_MAX);
        self.write(Durability::Ride, work, |()| ()).await
    }
}
