//! Puts the records of entries on the stream again, those of a key in the order in which it had them.
//!
//! Entries are opened in the order of their first record, and only as far as needed: a record goes out when no unopened entry
//! can hold one before it. An entry is marked when all of its records are durably on the stream. Whoever stops in between
//! sends some records twice, which their effects bear, and loses none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::StreamExt;
use sensor_ingestion::append::{Sleep, append};
use sensor_ingestion::records::{Pending, Queue};
use shared::ports::{PortError, QuarantineReview, ReadingStream, StreamRecord};
use shared::quarantine::{HeldRecord, Replayed, StreamOrder};
use shared::units::Timestamp;

/// Records and bytes between two looks at what can be marked; half a second of what a shard takes.
const CHUNK_RECORDS_MAX: usize = 500;
const CHUNK_BYTES_MAX: usize = 512 * 1024;

/// Entries marked at a time.
const MARKS: usize = 16;

/// Nobody waits for an answer here, and live readings come first: ten retries over about a minute.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(200))
    .with_factor(2.0)
    .with_max_delay(Duration::from_secs(10))
    .with_max_times(10)
    .with_jitter();

/// An entry that is to be replayed, and the place of its first record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Planned {
    pub(super) first: StreamOrder,
    pub(super) id: String,
}

/// How far a replay came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Entries marked as replayed.
    pub(super) entries: usize,
    /// Records on the stream.
    pub(super) records: usize,
}

/// Why a replay stopped before its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It was told to.
    Interrupted,
    /// The stream did not take so many records.
    Refused(usize),
    /// The quarantine failed.
    Port(PortError),
}

impl From<PortError> for Stopped {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

/// Replays the entries; `moved` is told of records that got onto the stream.
pub(super) async fn replay(
    quarantine: &impl QuarantineReview,
    stream: &impl ReadingStream,
    sleep: &impl Sleep,
    planned: Vec<Planned>,
    now: Timestamp,
    stop: impl Future<Output = ()>,
    mut moved: impl FnMut(usize),
) -> (Tally, Result<(), Stopped>) {
    let mut tally = Tally::default();
    let mut merge = Merge::new(planned, now);
    let mut stop = std::pin::pin!(stop);
    let outcome = async {
        loop {
            let chunk = tokio::select! {
                biased;
                () = &mut stop => return Err(Stopped::Interrupted),
                chunk = merge.chunk(quarantine) => chunk?,
            };
            if chunk.is_empty() {
                return Ok(());
            }
            let lost = tokio::select! {
                biased;
                () = &mut stop => return Err(Stopped::Interrupted),
                lost = append(stream, sleep, RETRIES, queues(&chunk)) => lost,
            };
            let durable = chunk.iter().enumerate().filter(|(place, _)| !lost.contains(place));
            let complete: Vec<Replayed> = durable.flat_map(|(_, (_, owners))| merge.settle(owners)).collect();
            tally.records += chunk.len() - lost.len();
            moved(chunk.len() - lost.len());
            let marks = complete.iter().map(|replayed| quarantine.replayed(replayed));
            let mut marked = futures_util::stream::iter(marks).buffer_unordered(MARKS);
            while let Some(mark) = marked.next().await {
                mark?;
                tally.entries += 1;
            }
            if !lost.is_empty() {
                return Err(Stopped::Refused(lost.len()));
            }
        }
    };
    let outcome = outcome.await;
    (tally, outcome)
}

/// The records of a chunk by key, each with its place in the chunk.
fn queues(chunk: &[(StreamRecord, Vec<usize>)]) -> Vec<Queue> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut queues: Vec<Queue> = Vec::new();
    for (place, (record, _)) in chunk.iter().enumerate() {
        let number = *numbers.entry(&record.key).or_insert(queues.len());
        if number == queues.len() {
            queues.push(Queue::new());
        }
        if let Some(queue) = queues.get_mut(number) {
            queue.push_back(Pending { record: record.clone(), indices: vec![place] });
        }
    }
    queues
}

/// One record of the stream: two functions may have put the same one aside, and it goes out once.
type Identity = (StreamOrder, String, String);

/// The records of many entries in the order of the stream.
struct Merge {
    now: Timestamp,
    /// Entries not yet opened, by their first record.
    planned: VecDeque<Planned>,
    /// Entries that are open: what to keep of them, and how many of their records are not on the stream yet.
    open: HashMap<usize, (Replayed, usize)>,
    opened: usize,
    /// Records of open entries that are not on their way yet, with the entries that hold them.
    pending: BTreeMap<Identity, (HeldRecord, Vec<usize>)>,
}

impl Merge {
    fn new(mut planned: Vec<Planned>, now: Timestamp) -> Self {
        planned.sort();
        Self { now, planned: planned.into(), open: HashMap::new(), opened: 0, pending: BTreeMap::new() }
    }

    /// The next records, with the entries that hold them; none at the end.
    async fn chunk(&mut self, quarantine: &impl QuarantineReview) -> Result<Vec<(StreamRecord, Vec<usize>)>, PortError> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_RECORDS_MAX && bytes < CHUNK_BYTES_MAX {
            let first = self.pending.keys().next().map(|(order, ..)| order);
            if let Some(next) = self.planned.front().filter(|next| first.is_none_or(|first| next.first <= *first)) {
                let entry = quarantine.entry(&next.id).await?;
                self.planned.pop_front();
                // One that is gone was replayed or discarded by somebody else.
                let Some(entry) = entry.filter(|entry| !entry.records.is_empty()) else { continue };
                let number = self.opened;
                self.opened += 1;
                self.open.insert(number, (Replayed::of(&entry, self.now), entry.records.len()));
                for record in entry.records {
                    let identity = (record.order(), record.shard.clone(), record.digest());
                    self.pending.entry(identity).or_insert_with(|| (record, Vec::new())).1.push(number);
                }
                continue;
            }
            let Some((_, (record, owners))) = self.pending.pop_first() else { break };
            bytes += record.key.len() + record.data.len();
            chunk.push((StreamRecord { key: record.key, data: record.data }, owners));
        }
        Ok(chunk)
    }

    /// Takes note that a record is on the stream; gives the entries that are complete with it.
    fn settle(&mut self, owners: &[usize]) -> Vec<Replayed> {
        let mut complete = Vec::new();
        for owner in owners {
            let Some((_, left)) = self.open.get_mut(owner) else { continue };
            *left -= 1;
            if *left == 0 {
                complete.extend(self.open.remove(owner).map(|(replayed, _)| replayed));
            }
        }
        complete
    }
}
