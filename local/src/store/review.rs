//! The quarantine as people see it: poison records and failed batches in one list, and what was sent again.

use redb::{ReadableTableMetadata, TableDefinition, WriteTransaction};
use shared::ports::{Page, PortError, QuarantineReview};
use shared::quarantine::{Entry, HeldRecord, Kind, Replayed, given_up};

use super::logs::{FAILED, FailedBatch, QUARANTINE, Quarantined};
use super::{Durability, Store, unavailable, unusable};

/// Replayed entries that are remembered; the oldest go first.
pub(super) const REPLAYED_MAX: u64 = 10_000;

/// Time of the replay and id -> JSON.
pub(super) const REPLAYED: TableDefinition<&str, &[u8]> = TableDefinition::new("replayed");

/// What the ids of the two kinds begin with, in the order in which they are listed.
const BATCH: &str = "batch:";
const POISON: &str = "poison:";

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(REPLAYED)?;
    Ok(())
}

/// The table and the row of an entry.
fn place(id: &str) -> Option<(TableDefinition<'static, &'static str, &'static [u8]>, &str)> {
    id.strip_prefix(BATCH).map(|row| (FAILED, row)).or_else(|| id.strip_prefix(POISON).map(|row| (QUARANTINE, row)))
}

fn entry_of(id: String, bytes: &[u8]) -> Entry {
    let entry = if id.starts_with(BATCH) { batch(&id, bytes) } else { poison(&id, bytes) };
    entry.unwrap_or_else(|error| Entry::unreadable(id, None, format!("its row cannot be decoded: {error}")))
}

fn poison(id: &str, bytes: &[u8]) -> Result<Entry, postcard::Error> {
    let Quarantined { id: place, key, data, function, reason, at } = Quarantined::from_bytes(bytes)?;
    let (shard, sequence) = place.split_once(':').unwrap_or(("", &place));
    let record = HeldRecord { shard: shard.to_owned(), sequence: sequence.to_owned(), key, data, arrived_at: None };
    Ok(Entry { id: id.to_owned(), kind: Kind::Poison, function, at, reason, records: vec![record] })
}

fn batch(id: &str, bytes: &[u8]) -> Result<Entry, postcard::Error> {
    let FailedBatch { mapping, condition, invocations, at, shard, records, .. } = postcard::from_bytes(bytes)?;
    let held = records.into_iter().map(|record| HeldRecord {
        shard: shard.clone(),
        sequence: record.sequence.to_string(),
        key: record.key,
        data: record.data,
        arrived_at: Some(record.arrived_at),
    });
    Ok(Entry {
        id: id.to_owned(),
        kind: Kind::FailedBatch,
        function: mapping,
        at: Some(at),
        reason: given_up(&format!("{condition:?}"), invocations),
        records: held.collect(),
    })
}

impl QuarantineReview for Store {
    async fn entries(&self, after: Option<&str>, limit: usize) -> Result<Page<Entry>, PortError> {
        let page = |prefix: &str, table, after: Option<&str>| {
            let show = |row: &str, bytes: &[u8]| Ok(entry_of(format!("{prefix}{row}"), bytes));
            let page = self.page(table, "", after, limit, show)?;
            Ok(Page { items: page.items, next: page.next.map(|row| format!("{prefix}{row}")) })
        };
        match after {
            Some(after) if after >= POISON => page(POISON, QUARANTINE, after.strip_prefix(POISON).filter(|row| !row.is_empty())),
            after => {
                let batches: Page<Entry> = page(BATCH, FAILED, after.and_then(|after| after.strip_prefix(BATCH)))?;
                Ok(Page { next: batches.next.or_else(|| Some(POISON.to_owned())), items: batches.items })
            }
        }
    }

    async fn entry(&self, id: &str) -> Result<Option<Entry>, PortError> {
        let Some((table, row)) = place(id) else { return Ok(None) };
        let table = self.read()?.open_table(table).map_err(unavailable)?;
        let bytes = table.get(row).map_err(unavailable)?;
        Ok(bytes.map(|bytes| entry_of(id.to_owned(), bytes.value())))
    }

    async fn replayed(&self, replayed: &Replayed) -> Result<(), PortError> {
        let id = replayed.id.clone();
        // Digits with leading zeros, so that the oldest lie first.
        let key = format!("{:020}:{id}", replayed.replayed_at.as_millis());
        let bytes = serde_json::to_vec(replayed).map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            remove(transaction, &id)?;
            let mut table = transaction.open_table(REPLAYED)?;
            table.insert(key.as_str(), bytes.as_slice())?;
            if table.len()? > REPLAYED_MAX {
                table.pop_first()?;
            }
            Ok(())
        };
        self.write(Durability::Disk, work, |()| ()).await
    }

    async fn replays(&self, after: Option<&str>, limit: usize) -> Result<Page<Replayed>, PortError> {
        let page = self.page(REPLAYED, "", after, limit, |row, bytes| {
            let replayed = serde_json::from_slice(bytes);
            if let Err(error) = &replayed {
                tracing::warn!(row, %error, "what is told of a replayed entry cannot be read");
            }
            Ok(replayed.ok())
        })?;
        Ok(Page { items: page.items.into_iter().flatten().collect(), next: page.next })
    }

    async fn discard(&self, id: &str) -> Result<(), PortError> {
        let id = id.to_owned();
        self.write(Durability::Disk, move |transaction| remove(transaction, &id), |()| ()).await
    }
}

fn remove(transaction: &WriteTransaction, id: &str) -> Result<(), redb::Error> {
    if let Some((table, row)) = place(id) {
        transaction.open_table(table)?.remove(row)?;
    }
    Ok(())
}
