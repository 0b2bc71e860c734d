//! The records of the stream and the checkpoints of the mappings that read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use shared::ports::{PortError, ReadingStream, StreamRecord};
use shared::units::Timestamp;

use super::shards::{self, Ranges};
use super::{Durability, FailedBatch, Store, logs, unavailable};
use crate::mapping::{Room, Settlement};
use crate::stream::{Record, Sequence};

/// Limits of one call, as those of `PutRecords`.
const APPEND_RECORDS_MAX: usize = 500;
const APPEND_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Limits of one record.
const RECORD_BYTES_MAX: usize = 1024 * 1024;
const KEY_CHARS_MAX: usize = 256;
/// Bytes of one read, so that a read takes a few milliseconds at most.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a record stays at least, whether it was processed or not.
const RETENTION_MS: i64 = 24 * 60 * 60 * 1000;
/// Records that an append may trim beside two for each that it adds, so that a shard shrinks faster than it grows.
const TRIM_BASE: usize = 8;

/// (shard, number) -> (arrival, key, data).
pub(super) const STREAM: TableDefinition<(u16, u64), (i64, &str, &[u8])> = TableDefinition::new("stream");
/// Shard -> number of its last record; outlives the record.
pub(super) const ENDS: TableDefinition<u16, u64> = TableDefinition::new("stream_ends");
/// (mapping, shard) -> checkpoint of each lane.
pub(super) const CHECKPOINTS: TableDefinition<(&str, u16), Vec<u64>> = TableDefinition::new("checkpoints");

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(STREAM)?;
    transaction.open_table(ENDS)?;
    transaction.open_table(CHECKPOINTS)?;
    Ok(())
}

impl Store {
    /// Records of a shard after a place, in order, as far as there is room.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the file cannot be read.
    pub fn records_after(&self, shard: u16, after: Sequence, room: Room) -> Result<Vec<Record>, PortError> {
        let table = self.read()?.open_table(STREAM).map_err(unavailable)?;
        let range = table.range((shard, after.next().get())..=(shard, u64::MAX)).map_err(unavailable)?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        for row in range.take(room.records) {
            let (place, row) = row.map_err(unavailable)?;
            let (arrived, key, data) = row.value();
            let sequence = Sequence::new(place.value().1);
            records.push(Record { sequence, key: key.to_owned(), data: data.to_owned(), arrived_at: Timestamp::from_millis(arrived) });
            bytes += data.len();
            if bytes >= room.bytes.min(READ_BYTES_MAX) {
                break;
            }
        }
        Ok(records)
    }

    /// Makes a mapping known, so that no record is trimmed before it had its turn.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the store cannot take it.
    pub async fn register_mapping(&self, mapping: &str) -> Result<(), PortError> {
        let mapping = mapping.to_owned();
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(CHECKPOINTS)?;
            for (shard, begin) in shards::begins(transaction)? {
                if table.get((mapping.as_str(), shard))?.is_none() {
                    table.insert((mapping.as_str(), shard), vec![begin])?;
                }
            }
            Ok(())
        };
        self.write(Durability::Disk, work, |()| ()).await
    }

    /// Checkpoints of a mapping in a shard, one per lane; none if it never ran.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the file cannot be read.
    pub fn checkpoints(&self, mapping: &str, shard: u16) -> Result<Vec<Sequence>, PortError> {
        let table = self.read()?.open_table(CHECKPOINTS).map_err(unavailable)?;
        let stored = table.get((mapping, shard)).map_err(unavailable)?;
        Ok(stored.map(|row| row.value().into_iter().map(Sequence::new).collect()).unwrap_or_default())
    }

    /// Stores how far a mapping has come in a shard and, in the same commit, what it gave up.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the store cannot take it, or has no room for what was given up; nothing is stored then.
    pub async fn settle(&self, mapping: &str, shard: u16, settlement: &Settlement) -> Result<(), PortError> {
        let at = self.0.clock.now();
        let failed = settlement.discarded.iter().map(|discarded| FailedBatch::new(mapping, shard, at, discarded));
        let failed = failed.map(|batch| Ok((batch.id(), postcard::to_stdvec(&batch)?)));
        let failed = failed.collect::<Result<Vec<_>, postcard::Error>>().map_err(unavailable)?;
        let checkpoints: Vec<u64> = settlement.checkpoints.iter().map(|checkpoint| checkpoint.get()).collect();
        let (mapping, bounds) = (mapping.to_owned(), Arc::clone(&self.0.bounds));
        let work = move |transaction: &WriteTransaction| {
            let kept = bounds.insert_failed(transaction, &failed)?;
            if kept {
                transaction.open_table(CHECKPOINTS)?.insert((mapping.as_str(), shard), checkpoints)?;
            }
            Ok(kept)
        };
        let kept = self.write(Durability::Ride, work, |kept| kept).await?;
        if kept { Ok(()) } else { Err(logs::full("the log of failed batches")) }
    }
}

impl ReadingStream for Store {
    async fn append(&self, records: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> {
        let bytes: usize = records.iter().map(|record| record.key.len() + record.data.len()).sum();
        if records.len() > APPEND_RECORDS_MAX || bytes > APPEND_BYTES_MAX {
            return Err(PortError::Unusable("the stream", "one call takes at most 500 records and 5 MiB".into()));
        }
        let answers: Vec<_> = records.iter().map(check).collect();
        let accepted: Vec<_> =
            records.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(record, _)| record.clone()).collect();
        if accepted.is_empty() {
            return Ok(answers);
        }
        let (clock, ends) = (Arc::clone(&self.0.clock), Arc::clone(&self.0.ends));
        let work = move |transaction: &WriteTransaction| {
            let (now, ranges) = (clock.now(), Ranges::read(transaction)?);
            let appended = insert(transaction, &accepted, &ranges, now)?;
            let forgotten = trim(transaction, &ranges, appended.keys(), accepted.len(), now)?;
            Ok((appended, forgotten))
        };
        let announce = move |(appended, forgotten): (BTreeMap<u16, u64>, Vec<u16>)| {
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            for (shard, last) in appended {
                if let Some(end) = ends.get(&shard) {
                    end.send_modify(|end| end.last = Sequence::new(last));
                }
            }
            ends.retain(|shard, _| !forgotten.contains(shard));
        };
        self.write(Durability::Disk, work, announce).await?;
        Ok(answers)
    }
}

fn check(record: &StreamRecord) -> Result<(), PortError> {
    let refuse = |reason: &str| Err(PortError::Unusable("the stream", reason.into()));
    match () {
        () if record.key.is_empty() => refuse("a record needs a partition key"),
        () if record.key.chars().count() > KEY_CHARS_MAX => refuse("a partition key has at most 256 characters"),
        () if record.data.len() + record.key.len() > RECORD_BYTES_MAX => refuse("a record has at most 1 MiB"),
        () => Ok(()),
    }
}

/// Inserts the records and answers the new end of each shard that got one.
fn insert(
    transaction: &WriteTransaction,
    records: &[StreamRecord],
    ranges: &Ranges,
    now: Timestamp,
) -> Result<BTreeMap<u16, u64>, redb::Error> {
    let mut stream = transaction.open_table(STREAM)?;
    let mut ends = transaction.open_table(ENDS)?;
    let mut appended = BTreeMap::new();
    for record in records {
        let shard = ranges.shard_of(&record.key)?;
        let last = match appended.get(&shard) {
            Some(&last) => last,
            None => ends.get(shard)?.map_or(0, |end| end.value()),
        };
        appended.insert(shard, last + 1);
        stream.insert((shard, last + 1), (now.as_millis(), record.key.as_str(), record.data.as_slice()))?;
    }
    for (&shard, &end) in &appended {
        ends.insert(shard, end)?;
    }
    Ok(appended)
}

/// Deletes records that every mapping has settled and that are past their retention, in the shards that just grew and in
/// those that grow no more; answers which of these are needed by nobody any more.
fn trim<'a>(
    transaction: &WriteTransaction,
    ranges: &Ranges,
    grown: impl Iterator<Item = &'a u16>,
    appended: usize,
    now: Timestamp,
) -> Result<Vec<u16>, redb::Error> {
    let closed = shards::begins(transaction)?.into_keys().filter(|&shard| !ranges.is_open(shard));
    let shards: BTreeSet<u16> = grown.copied().chain(closed).collect();
    let mut settled: BTreeMap<u16, u64> = BTreeMap::new();
    for row in transaction.open_table(CHECKPOINTS)?.iter()? {
        let (key, lanes) = row?;
        let lowest = lanes.value().into_iter().min().unwrap_or_default();
        settled.entry(key.value().1).and_modify(|settled| *settled = lowest.min(*settled)).or_insert(lowest);
    }
    let mut emptied = BTreeSet::new();
    let mut stream = transaction.open_table(STREAM)?;
    let oldest = now.plus_millis(-RETENTION_MS).as_millis();
    for shard in shards {
        let settled = settled.get(&shard).copied().unwrap_or(u64::MAX);
        let mut expired = Vec::new();
        for row in stream.range((shard, 0)..=(shard, settled))?.take(2 * appended + TRIM_BASE) {
            let (place, row) = row?;
            if row.value().0 >= oldest {
                break;
            }
            expired.push(place.value());
        }
        for place in expired {
            stream.remove(place)?;
        }
        if !ranges.is_open(shard) && stream.range((shard, 0)..=(shard, u64::MAX))?.next().is_none() {
            emptied.insert(shard);
        }
    }
    shards::forget(transaction, &emptied, &settled)
}
