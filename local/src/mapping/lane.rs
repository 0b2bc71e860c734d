//! One lane of a shard: a queue of records, the batch at hand and what is left of it.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::units::Timestamp;

use super::{Condition, Discarded, Outcome, PAYLOAD_BYTES_MAX, Settings};
use crate::stream::{Record, Sequence};

/// Size of a record's JSON beside its key and data: measured on an event of this stream, rounded up.
const ENVELOPE_BYTES: usize = 480;

/// A batch or a part of one, tried as a whole.
#[derive(Debug)]
struct Piece {
    records: Vec<Arc<Record>>,
    /// Retries used up.
    retries: u32,
    /// Calls that the first record has seen.
    invocations: u32,
}

#[derive(Debug)]
struct Waiting {
    record: Arc<Record>,
    bytes: usize,
    since: Timestamp,
}

#[derive(Debug)]
pub(super) struct Lane {
    /// Records up to here were settled before the start.
    resumed_at: Sequence,
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    /// What is left of the batch at hand; the last piece comes first. Nothing joins a batch once it is formed.
    pieces: Vec<Piece>,
    running: bool,
    /// No call before this time.
    not_before: Option<Timestamp>,
    /// Whether the checkpoint moved since it was asked for.
    moved: bool,
}

impl Lane {
    pub(super) const fn new(resumed_at: Sequence) -> Self {
        Self { resumed_at, queue: VecDeque::new(), queued_bytes: 0, pieces: Vec::new(), running: false, not_before: None, moved: false }
    }

    pub(super) fn push(&mut self, record: Record, now: Timestamp) {
        if record.sequence <= self.resumed_at {
            return;
        }
        let bytes = record.data.len().div_ceil(3) * 4 + record.key.len() + ENVELOPE_BYTES;
        self.queued_bytes += bytes;
        self.queue.push_back(Waiting { record: Arc::new(record), bytes, since: now });
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.pieces.iter().map(|piece| piece.records.len()).sum::<usize>()
    }

    pub(super) const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The first record that is not settled.
    pub(super) fn first(&self) -> Option<Sequence> {
        let at_hand = self.pieces.last().and_then(|piece| piece.records.first());
        at_hand.or_else(|| self.queue.front().map(|waiting| &waiting.record)).map(|record| record.sequence)
    }

    pub(super) const fn take_moved(&mut self) -> bool {
        std::mem::replace(&mut self.moved, false)
    }

    pub(super) fn wake_at(&self, settings: &Settings) -> Option<Timestamp> {
        match (self.running, self.pieces.is_empty()) {
            (true, _) => None,
            (false, false) => self.not_before,
            (false, true) => self.queue.front().map(|first| first.since.plus_millis(settings.window_ms())),
        }
    }

    /// Forms a batch if it is time to, and takes off the piece at hand what is too old.
    pub(super) fn prepare(&mut self, settings: &Settings, now: Timestamp) -> Option<Discarded> {
        if self.waits(now) {
            return None;
        }
        if self.pieces.is_empty() {
            self.form_batch(settings, now);
        }
        self.expire(settings, now)
    }

    /// Starts a call with the piece at hand, if there is one and it may go out.
    pub(super) fn start(&mut self, now: Timestamp) -> Option<Vec<Arc<Record>>> {
        if self.waits(now) {
            return None;
        }
        let piece = self.pieces.last_mut()?;
        piece.invocations = piece.invocations.saturating_add(1);
        self.running = true;
        self.not_before = None;
        Some(piece.records.clone())
    }

    pub(super) fn complete(&mut self, settings: &Settings, outcome: &Outcome, now: Timestamp) -> Option<Discarded> {
        if !std::mem::replace(&mut self.running, false) {
            return None;
        }
        let mut piece = self.pieces.pop()?;
        let succeeded = succeeded(settings, &piece.records, outcome);
        if succeeded > 0 {
            self.moved = true;
            piece.records.drain(..succeeded);
            if piece.records.is_empty() {
                return None;
            }
            piece.retries = 0;
            self.retry(piece, now.plus_millis(settings.backoff(1)));
            return None;
        }
        if settings.bisect_batch_on_function_error && piece.records.len() > 1 {
            let second = piece.records.split_off(piece.records.len() / 2);
            self.pieces.push(Piece { records: second, ..piece });
            // The same wait for every split: to isolate one record of a hundred takes seven of them.
            self.retry(piece, now.plus_millis(settings.backoff(1)));
            return None;
        }
        if settings.retries().is_some_and(|retries| piece.retries >= retries) {
            self.moved = true;
            return Some(Discarded {
                condition: Condition::RetryAttemptsExhausted,
                invocations: piece.invocations,
                records: piece.records,
            });
        }
        piece.retries = piece.retries.saturating_add(1);
        let wait = settings.backoff(piece.retries);
        self.retry(piece, now.plus_millis(wait));
        None
    }

    /// The clock was set back by so much: so is what waits for it.
    pub(super) fn set_back(&mut self, millis: i64) {
        for waiting in &mut self.queue {
            waiting.since = waiting.since.plus_millis(-millis);
        }
        self.not_before = self.not_before.map(|at| at.plus_millis(-millis));
    }

    fn waits(&self, now: Timestamp) -> bool {
        self.running || self.not_before.is_some_and(|at| now < at)
    }

    fn retry(&mut self, piece: Piece, at: Timestamp) {
        self.pieces.push(piece);
        self.not_before = Some(at);
    }

    /// Forms a batch if enough records wait, or one has waited for the whole window.
    fn form_batch(&mut self, settings: &Settings, now: Timestamp) {
        let Some(first) = self.queue.front() else { return };
        let full = self.queue.len() >= settings.batch_size || self.queued_bytes >= PAYLOAD_BYTES_MAX;
        if !full && now < first.since.plus_millis(settings.window_ms()) {
            return;
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(waiting) = self.queue.front() {
            bytes += waiting.bytes;
            if records.len() >= settings.batch_size || (bytes > PAYLOAD_BYTES_MAX && !records.is_empty()) {
                break;
            }
            self.queued_bytes = self.queued_bytes.saturating_sub(waiting.bytes);
            records.extend(self.queue.pop_front().map(|waiting| waiting.record));
        }
        self.pieces.push(Piece { records, retries: 0, invocations: 0 });
    }

    /// Takes the records that are too old off the piece at hand. They lead it: a shard numbers records as they arrive.
    fn expire(&mut self, settings: &Settings, now: Timestamp) -> Option<Discarded> {
        let oldest = now.plus_millis(-settings.age_ms()?);
        let piece = self.pieces.last_mut()?;
        let expired = piece.records.iter().take_while(|record| record.arrived_at < oldest).count();
        if expired == 0 {
            return None;
        }
        self.moved = true;
        let records = piece.records.drain(..expired).collect();
        let invocations = piece.invocations;
        if piece.records.is_empty() {
            self.pieces.pop();
        }
        Some(Discarded { condition: Condition::MaxRecordAgeExceeded, invocations, records })
    }
}

/// How many leading records the outcome leaves behind. An identifier that is empty, missing or not of this batch fails all.
fn succeeded(settings: &Settings, records: &[Arc<Record>], outcome: &Outcome) -> usize {
    let Outcome::Response(response) = outcome else { return 0 };
    if !settings.report_batch_item_failures {
        return records.len();
    }
    let place = |identifier: Option<&str>| {
        let text = identifier.unwrap_or_default();
        let sequence = text.parse().ok().map(Sequence::new).filter(|sequence| sequence.to_string() == text)?;
        records.binary_search_by_key(&sequence, |record| record.sequence).ok()
    };
    let failures = &response.batch_item_failures;
    failures.iter().map(|failure| place(failure.item_identifier.as_deref()).unwrap_or_default()).min().unwrap_or(records.len())
}
