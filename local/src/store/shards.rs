//! Which shards there are: the open ones share the space of hashes out among them, the closed ones are still to be read.
//!
//! As on Kinesis, a shard is split into two or two neighbours are merged: the parents close and take no more records, children
//! begin in their place, and a mapping reads a child only when it has read all its parents to their end. So the records of a
//! key keep their order. Their numbers go on, too: a child begins behind the last record of its parents.
//!
//! An open shard is a row that says where its range begins; it ends where the next one begins. So ranges without a gap and
//! without an overlap are all that can be stored, and a reshard is one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use shared::ports::PortError;
use tokio::sync::watch;

use super::streams::{CHECKPOINTS, ENDS};
use super::{Durability, META, Store, unavailable};
use crate::stream::{SHARDS_MAX, Sequence, first_hashes, shard_hash};

/// First hash of a range -> open shard.
const RANGES: TableDefinition<u32, u16> = TableDefinition::new("stream_ranges");
/// Shard -> (number before its first record, parents). A closed one stays until nobody needs it.
const SHARDS: TableDefinition<u16, (u64, Vec<u16>)> = TableDefinition::new("stream_shards");
/// In [`META`]: how many numbers of shards are given out.
const GIVEN_OUT: &str = "shards";

/// Where a shard ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its last record so far.
    pub last: Sequence,
    /// Whether it takes no more.
    pub closed: bool,
}

/// Why a stream was not resharded; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReshardError {
    /// A shard takes no more records, or never existed.
    #[error("shard {0} is not open: choose one that is")]
    NotOpen(u16),
    /// A shard cannot be split there.
    #[error("{at} does not divide the hashes of shard {shard}: they go from {first} to {last}, and the second child begins above {first}")]
    NotDivided {
        /// The shard.
        shard: u16,
        /// Where it was to be split.
        at: u32,
        /// The first hash of its range.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// There are hashes between two shards, or the second lies before the first.
    #[error("the range of shard {1} does not begin where that of shard {0} ends: only such neighbours can be merged")]
    NotAdjacent(u16, u16),
    /// There are as many open shards as there may be.
    #[error("the stream has {SHARDS_MAX} open shards already: merge two of them first")]
    Full,
    /// No shard can be made any more.
    #[error("all numbers of shards are used up: begin with a new data directory")]
    NoNumber,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// What a shard is to become.
#[derive(Clone, Copy)]
enum Reshard {
    Split { shard: u16, at: u32 },
    Merge { low: u16, high: u16 },
}

/// Children that took the place of their parents, behind this record.
struct Replaced {
    children: Vec<u16>,
    begin: u64,
}

impl Store {
    /// Numbers of the shards that are kept: the open ones, and closed ones that may still have records or readers.
    pub fn shards(&self) -> Vec<u16> {
        self.lock_ends().keys().copied().collect()
    }

    /// The open shards in the order of their ranges, each with the hash at which its own begins; the first one is 0.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the file cannot be read.
    pub fn open_shards(&self) -> Result<Vec<(u32, u16)>, PortError> {
        let table = self.read()?.open_table(RANGES).map_err(unavailable)?;
        Ok(Ranges::of(&table).map_err(unavailable)?.0)
    }

    /// The end of a shard, to wait for its next record; `None` for one that is not kept.
    pub fn end_of(&self, shard: u16) -> Option<watch::Receiver<End>> {
        self.lock_ends().get(&shard).map(watch::Sender::subscribe)
    }

    /// Closes a shard and opens two in its place, of which the second one begins at this hash.
    ///
    /// # Errors
    /// [`ReshardError`]; nothing has changed then.
    pub async fn split(&self, shard: u16, at: u32) -> Result<Vec<u16>, ReshardError> {
        self.reshard(Reshard::Split { shard, at }).await
    }

    /// Closes two shards whose ranges are neighbours and opens one in their place.
    ///
    /// # Errors
    /// [`ReshardError`]; nothing has changed then.
    pub async fn merge(&self, low: u16, high: u16) -> Result<Vec<u16>, ReshardError> {
        self.reshard(Reshard::Merge { low, high }).await
    }

    async fn reshard(&self, reshard: Reshard) -> Result<Vec<u16>, ReshardError> {
        let work = move |transaction: &WriteTransaction| {
            let (parents, firsts) = match Ranges::read(transaction)?.plan(reshard) {
                Ok(planned) => planned,
                Err(refused) => return Ok(Err(refused)),
            };
            let replaced = replace(transaction, &parents, &firsts)?;
            Ok(replaced.map(|replaced| (parents, replaced)).ok_or(ReshardError::NoNumber))
        };
        let ends = Arc::clone(&self.0.ends);
        let announce = move |outcome: Result<(Vec<u16>, Replaced), ReshardError>| {
            let (parents, Replaced { children, begin }) = outcome?;
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            let open = End { last: Sequence::new(begin), closed: false };
            ends.extend(children.iter().map(|&child| (child, watch::Sender::new(open))));
            for parent in parents {
                if let Some(end) = ends.get(&parent) {
                    end.send_modify(|end| end.closed = true);
                }
            }
            Ok(children)
        };
        self.write(Durability::Disk, work, announce).await?
    }

    /// Shards that a mapping has not read to their end, but all their parents.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the file cannot be read.
    pub fn readable(&self, mapping: &str) -> Result<Vec<u16>, PortError> {
        // Children have higher numbers than their parents.
        let (mut unread, mut readable) = (BTreeSet::new(), Vec::new());
        for (shard, Progress { parents, settled, end }) in self.progress(mapping)? {
            let waits = parents.iter().any(|parent| unread.contains(parent));
            if waits || !end.closed || settled < end.last {
                unread.insert(shard);
                readable.extend((!waits).then_some(shard));
            }
        }
        Ok(readable)
    }

    /// Records that a mapping has not settled yet, over all shards; those of its slowest lane count with what lies behind them.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the file cannot be read.
    pub fn lag(&self, mapping: &str) -> Result<u64, PortError> {
        Ok(self.progress(mapping)?.values().map(|shard| shard.end.last.get().saturating_sub(shard.settled.get())).sum())
    }

    /// How far a mapping has come in each shard, in the order of their numbers.
    fn progress(&self, mapping: &str) -> Result<BTreeMap<u16, Progress>, PortError> {
        // The ends first: whoever is started by what is found here hears of all that comes after it.
        let ends: Vec<_> = self.lock_ends().iter().map(|(&shard, end)| (shard, *end.borrow())).collect();
        let read = || {
            let transaction = self.0.database.begin_read()?;
            let (shards, checkpoints) = (transaction.open_table(SHARDS)?, transaction.open_table(CHECKPOINTS)?);
            let mut progress = BTreeMap::new();
            for (shard, end) in ends {
                // One that was forgotten meanwhile has been read.
                let Some((begin, parents)) = shards.get(shard)?.map(|row| row.value()) else { continue };
                let settled = checkpoints.get((mapping, shard))?.and_then(|lanes| lanes.value().into_iter().min());
                progress.insert(shard, Progress { parents, settled: Sequence::new(settled.unwrap_or(begin)), end });
            }
            Ok::<_, redb::Error>(progress)
        };
        read().map_err(unavailable)
    }

    pub(super) fn lock_ends(&self) -> MutexGuard<'_, Ends> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a mapping has come in a shard, by its slowest lane.
struct Progress {
    parents: Vec<u16>,
    settled: Sequence,
    end: End,
}

/// The end of each shard that is kept, for those who wait for its records.
pub(super) type Ends = BTreeMap<u16, watch::Sender<End>>;

/// The open shards in the order of their ranges.
pub(super) struct Ranges(Vec<(u32, u16)>);

impl Ranges {
    pub(super) fn read(transaction: &WriteTransaction) -> Result<Self, redb::Error> {
        Self::of(&transaction.open_table(RANGES)?)
    }

    fn of(table: &impl ReadableTable<u32, u16>) -> Result<Self, redb::Error> {
        let rows = table.iter()?.map(|row| row.map(|(first, shard)| (first.value(), shard.value())));
        Ok(Self(rows.collect::<Result<_, _>>()?))
    }

    /// The open shard whose range holds the hash of a key.
    pub(super) fn shard_of(&self, key: &str) -> Result<u16, redb::Error> {
        let behind = self.0.partition_point(|&(first, _)| first <= shard_hash(key));
        let found = behind.checked_sub(1).and_then(|place| self.0.get(place));
        found.map(|&(_, shard)| shard).ok_or_else(|| redb::Error::Corrupted(format!("no shard holds the hash of {key:?}")))
    }

    pub(super) fn is_open(&self, shard: u16) -> bool {
        self.place(shard).is_some()
    }

    fn place(&self, shard: u16) -> Option<usize> {
        self.0.iter().position(|&(_, open)| open == shard)
    }

    /// Parents and first hashes of the children.
    fn plan(&self, reshard: Reshard) -> Result<(Vec<u16>, Vec<u32>), ReshardError> {
        let find = |shard| self.place(shard).ok_or(ReshardError::NotOpen(shard));
        let first_of = |place: usize| self.0.get(place).map(|&(first, _)| first);
        match reshard {
            Reshard::Split { shard, at } => {
                let place = find(shard)?;
                let first = first_of(place).unwrap_or_default();
                let last = first_of(place + 1).map_or(u32::MAX, |next| next - 1);
                if at <= first || at > last {
                    return Err(ReshardError::NotDivided { shard, at, first, last });
                }
                if self.0.len() >= usize::from(SHARDS_MAX) {
                    return Err(ReshardError::Full);
                }
                Ok((vec![shard], vec![first, at]))
            }
            Reshard::Merge { low, high } => {
                let place = find(low)?;
                if find(high)? != place + 1 {
                    return Err(ReshardError::NotAdjacent(low, high));
                }
                Ok((vec![low, high], first_of(place).into_iter().collect()))
            }
        }
    }
}

/// Makes the tables and, in a new stream, so many shards. Answers the end of each shard.
///
/// In a file of format 1 the shard of a key was the remainder of its hash, which is no range: its shards become the parents
/// of as many new ones.
pub(super) fn prepare(transaction: &WriteTransaction, format: Option<u64>, shards: u16) -> Result<BTreeMap<u16, End>, redb::Error> {
    transaction.open_table(RANGES)?;
    let (old, new) = match (format, given_out(transaction)?) {
        (None, _) => (0, shards),
        (Some(1), old) => (old, old),
        (Some(_), _) => return ends(transaction),
    };
    for shard in 0..old {
        transaction.open_table(SHARDS)?.insert(shard, (0, Vec::new()))?;
    }
    replace(transaction, &(0..old).collect::<Vec<_>>(), &first_hashes(new).collect::<Vec<_>>())?;
    ends(transaction)
}

fn given_out(transaction: &WriteTransaction) -> Result<u16, redb::Error> {
    let stored = transaction.open_table(META)?.get(GIVEN_OUT)?.map_or(0, |stored| stored.value());
    Ok(u16::try_from(stored).unwrap_or(u16::MAX))
}

fn end_of(ends: &impl ReadableTable<u16, u64>, shard: u16) -> Result<u64, redb::Error> {
    Ok(ends.get(shard)?.map_or(0, |end| end.value()))
}

/// The end of each shard that is kept.
fn ends(transaction: &WriteTransaction) -> Result<BTreeMap<u16, End>, redb::Error> {
    let (ranges, ends) = (Ranges::read(transaction)?, transaction.open_table(ENDS)?);
    let mut all = BTreeMap::new();
    for row in transaction.open_table(SHARDS)?.iter()? {
        let shard = row?.0.value();
        all.insert(shard, End { last: Sequence::new(end_of(&ends, shard)?), closed: !ranges.is_open(shard) });
    }
    Ok(all)
}

/// Closes shards and opens others in their place, whose ranges begin at these hashes; every mapping begins there where they
/// do. `None` if there are no numbers left.
fn replace(transaction: &WriteTransaction, parents: &[u16], firsts: &[u32]) -> Result<Option<Replaced>, redb::Error> {
    let next = given_out(transaction)?;
    let Some(after) = u16::try_from(firsts.len()).ok().and_then(|count| next.checked_add(count)) else { return Ok(None) };
    transaction.open_table(META)?.insert(GIVEN_OUT, u64::from(after))?;
    let mut ends = transaction.open_table(ENDS)?;
    let begin = parents.iter().try_fold(0, |begin, &parent| Ok::<_, redb::Error>(end_of(&ends, parent)?.max(begin)))?;
    let (mut ranges, mut shards) = (transaction.open_table(RANGES)?, transaction.open_table(SHARDS)?);
    ranges.retain(|_, shard| !parents.contains(&shard))?;
    let mut checkpoints = transaction.open_table(CHECKPOINTS)?;
    let mappings = checkpoints.iter()?.map(|row| row.map(|(key, _)| key.value().0.to_owned())).collect::<Result<BTreeSet<_>, _>>()?;
    for (&first, child) in firsts.iter().zip(next..after) {
        ranges.insert(first, child)?;
        shards.insert(child, (begin, parents.to_vec()))?;
        ends.insert(child, begin)?;
        for mapping in &mappings {
            checkpoints.insert((mapping.as_str(), child), vec![begin])?;
        }
    }
    Ok(Some(Replaced { children: (next..after).collect(), begin }))
}

/// Where a mapping that is not known yet begins in each shard.
pub(super) fn begins(transaction: &WriteTransaction) -> Result<BTreeMap<u16, u64>, redb::Error> {
    let rows = transaction.open_table(SHARDS)?;
    rows.iter()?.map(|row| row.map(|(shard, row)| (shard.value(), row.value().0)).map_err(Into::into)).collect()
}

/// Deletes what is known of closed shards that have no records left and were read to the end by all mappings, which have come
/// as far as `settled` tells. A shard goes after its parents: while one of them is there, its children wait for it.
pub(super) fn forget(
    transaction: &WriteTransaction,
    emptied: &BTreeSet<u16>,
    settled: &BTreeMap<u16, u64>,
) -> Result<Vec<u16>, redb::Error> {
    let mut forgotten = Vec::new();
    let (mut shards, mut ends) = (transaction.open_table(SHARDS)?, transaction.open_table(ENDS)?);
    for &shard in emptied {
        let mut kept = end_of(&ends, shard)? > settled.get(&shard).copied().unwrap_or(u64::MAX);
        for parent in shards.get(shard)?.map(|row| row.value().1).unwrap_or_default() {
            kept |= shards.get(parent)?.is_some();
        }
        if !kept {
            shards.remove(shard)?;
            ends.remove(shard)?;
            transaction.open_table(CHECKPOINTS)?.retain(|(_, of), _| of != shard)?;
            forgotten.push(shard);
        }
    }
    Ok(forgotten)
}

#[cfg(test)]
mod tests;
