//! The event source mapping: decides which records a function gets, when, and what becomes of them if it fails.
//!
//! One [`Mapping`] serves one shard. It is a state machine without a clock, a store or a runtime: it is told what happened
//! ([`Mapping::arrive`], [`Mapping::complete`]) and asked what to do ([`Mapping::next`]). [`crate::poller`] drives it.
//!
//! It behaves as the Kinesis mapping of AWS Lambda does:
//! - Records go out in order, one batch at a time per lane; a key stays in its lane.
//! - A batch succeeds as a whole, or up to the lowest sequence number in `batchItemFailures`, or not at all.
//! - A failed batch is halved (`BisectBatchOnFunctionError`), which uses up no retry, or tried again until its retries are
//!   used up or its records are too old; then it is given up and handed to the on-failure destination.
//! - The checkpoint of a lane lies before its first record that is neither processed nor given up.
//! - A shard that was closed is finished when the checkpoints of all lanes lie at its end; its children wait for that.
//!
//! Where the documentation of AWS is silent: a report that blames the first record of a batch counts as the failure of all
//! of it (nothing succeeded); a batch that got shorter by a partial success starts with all its retries; of a batch, only
//! the records that are too old are given up; the last batch of a closed shard waits for its window like any other.
//!
//! Source: AWS Lambda Developer Guide, "Process Amazon Kinesis Data Streams records", pages on partial batch responses and
//! on discarded batches.

mod lane;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aws_lambda_events::event::streams::KinesisEventResponse;
use serde::{Deserialize, Serialize};
use shared::units::Timestamp;

use self::lane::Lane;
pub use self::settings::{InvalidSettings, Settings};
use crate::stream::{Record, Sequence, lane_of};

/// Payload of one invocation in bytes (6 MB), records in base64 and envelopes included.
pub const PAYLOAD_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Records that a mapping holds at most for one shard, over all lanes; a lane that is stuck stops its shard only then.
pub const HELD_RECORDS_MAX: usize = 10_000;
/// Bytes of records waiting for a batch at which a mapping stops to read on.
pub const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What the driver is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand the records to the function and report with [`Mapping::complete`].
    Invoke(Invocation),
    /// Store this, in one piece, before anything else.
    Settle(Settlement),
}

/// One call of the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The lane that waits for the outcome.
    pub lane: usize,
    /// The records, in order.
    pub records: Vec<Arc<Record>>,
}

/// How far the lanes have come, and what was given up on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Per lane: every record of the lane up to here is processed or given up.
    pub checkpoints: Vec<Sequence>,
    /// For the on-failure destination.
    pub discarded: Vec<Discarded>,
}

/// Why a batch was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// `MaximumRetryAttempts` is used up.
    RetryAttemptsExhausted,
    /// The records are older than `MaximumRecordAgeInSeconds`.
    MaxRecordAgeExceeded,
}

/// A batch that was given up, with all that is needed to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// Why.
    pub condition: Condition,
    /// How often the function was called with the first of these records (`approximateInvokeCount`).
    pub invocations: u32,
    /// The records, in order; never empty.
    pub records: Vec<Arc<Record>>,
}

/// How a call of the function ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Response(KinesisEventResponse),
    /// It returned an error, panicked or ran out of time.
    Failed,
}

/// How much the mapping can take in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Records.
    pub records: usize,
    /// Bytes; one record more than fits is no harm.
    pub bytes: usize,
}

/// The mapping of one function to one shard.
#[derive(Debug)]
pub struct Mapping {
    settings: Settings,
    lanes: Vec<Lane>,
    position: Sequence,
    /// The lowest checkpoint that was stored.
    settled: Sequence,
    /// The last record, if no other will come.
    end: Option<Sequence>,
    discarded: Vec<Discarded>,
    draining: bool,
    /// What the clock showed last.
    shown: Option<Timestamp>,
}

impl Mapping {
    /// Goes on from the stored checkpoints, one per lane; none is the trim horizon.
    ///
    /// If the number of lanes has changed, every lane goes on from the lowest checkpoint: records come again rather than not.
    ///
    /// # Errors
    /// [`InvalidSettings`] if a setting is outside the range that AWS accepts.
    pub fn new(settings: Settings, checkpoints: &[Sequence]) -> Result<Self, InvalidSettings> {
        settings.check()?;
        let position = checkpoints.iter().min().copied().unwrap_or_default();
        let lanes = settings.parallelization_factor;
        let same = checkpoints.len() == lanes;
        let lanes = (0..lanes).map(|lane| Lane::new(checkpoints.get(lane).copied().filter(|_| same).unwrap_or(position))).collect();
        Ok(Self { settings, lanes, position, settled: position, end: None, discarded: Vec::new(), draining: false, shown: None })
    }

    /// Where to read on: after this record.
    pub const fn position(&self) -> Sequence {
        self.position
    }

    /// How much to read now; `None` if nothing fits until a batch is settled.
    pub fn room(&self) -> Option<Room> {
        let (records, bytes) = self.lanes.iter().fold((0, 0), |(records, bytes), lane| (records + lane.len(), bytes + lane.queued_bytes()));
        let room = Room { records: HELD_RECORDS_MAX.saturating_sub(records), bytes: HELD_BYTES_MAX.saturating_sub(bytes) };
        (room.records > 0 && room.bytes > 0).then_some(room)
    }

    /// Takes in the records that follow [`Self::position`], in order.
    pub fn arrive(&mut self, records: impl IntoIterator<Item = Record>, now: Timestamp) {
        for record in records {
            if record.sequence <= self.position {
                continue;
            }
            self.position = record.sequence;
            if let Some(lane) = self.lanes.get_mut(lane_of(&record.key, self.settings.parallelization_factor)) {
                lane.push(record, now);
            }
        }
    }

    /// The shard is closed and has no record behind [`Self::position`] any more; this was its last one.
    pub fn close(&mut self, end: Sequence) {
        self.position = self.position.max(end);
        self.end = Some(end);
    }

    /// Whether the shard is closed, all its records are processed or given up, and the settlement that says so was handed out: whoever
    /// asks stores it first.
    pub fn finished(&self) -> bool {
        self.end.is_some_and(|end| self.settled >= end)
    }

    /// What to do now; `None` if nothing, until a record arrives, a call ends or [`Self::wake_at`] has come.
    pub fn next(&mut self, now: Timestamp) -> Option<Action> {
        if self.draining {
            return self.unsettled().map(Action::Settle);
        }
        // Nobody waits longer because a clock was set back.
        let back_ms = self.shown.replace(now).map_or(0, |shown| shown.as_millis() - now.as_millis());
        if back_ms > 0 {
            self.lanes.iter_mut().for_each(|lane| lane.set_back(back_ms));
        }
        let expired = self.lanes.iter_mut().filter_map(|lane| lane.prepare(&self.settings, now));
        self.discarded.extend(expired);
        if let Some(settlement) = self.unsettled() {
            return Some(Action::Settle(settlement));
        }
        let mut lanes = self.lanes.iter_mut().enumerate();
        lanes.find_map(|(lane, state)| state.start(now).map(|records| Action::Invoke(Invocation { lane, records })))
    }

    /// Reports how the running call of a lane ended.
    pub fn complete(&mut self, lane: usize, outcome: &Outcome, now: Timestamp) {
        let discarded = self.lanes.get_mut(lane).and_then(|lane| lane.complete(&self.settings, outcome, now));
        self.discarded.extend(discarded);
    }

    /// When to ask again although nothing happens: a batching window closes or a retry is due.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.lanes.iter().filter_map(|lane| lane.wake_at(&self.settings)).min()
    }

    /// Starts no call from now on; those under way still count.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// What has to be stored since the last time. A lane without records stands at the end of what was read, so that an
    /// idle lane does not hold back the trimming of the stream; that alone is no reason to write before the shard is closed.
    fn unsettled(&mut self) -> Option<Settlement> {
        let moved = self.lanes.iter_mut().filter_map(|lane| lane.take_moved().then_some(())).count();
        let ends = self.end.is_some_and(|end| self.settled < end) && self.lanes.iter().all(|lane| lane.first().is_none());
        if moved == 0 && self.discarded.is_empty() && !ends {
            return None;
        }
        let checkpoints: Vec<_> = self.lanes.iter().map(|lane| lane.first().map_or(self.position, Sequence::before)).collect();
        self.settled = checkpoints.iter().min().copied().unwrap_or_default();
        Some(Settlement { checkpoints, discarded: std::mem::take(&mut self.discarded) })
    }
}
