//! What physics alone says of a detector: no history of its counts is needed, and minutes are enough.

use serde::{Deserialize, Serialize};
use shared::asset::Fault;

use super::faults::Faults;

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60_000;

/// A detector is silent after so many of its periods, and this long at least: a lost reading or two is no fault.
const SILENT_PERIODS: i64 = 3;
const SILENT_MIN_MS: i64 = 5 * MINUTE_MS;
/// It is heard again after as many periods without a break, and this long at least.
const HEARD_MIN_MS: i64 = MINUTE_MS;

/// Log likelihood ratio of losing half of the readings against losing one in 50, for a bin that is lost and one that is not.
const GAP_STEP: (f32, f32) = (3.2, -0.67);
/// Evidence of gaps at which a detector is taken to have no data, and at which that is over; three lost bins of few.
const GAPS: Threshold = Threshold { raise: 8.0, clear: 2.0, max: 9.6 };
/// Lost bins in a row count up to so many: silence is judged by its length.
const GAP_RUN_MAX: u8 = 2;

/// Occupied from this share of a period on counts as all of it: devices report in half percents.
const OCCUPIED: f32 = 0.98;
/// Occupied this long while others move is stuck: longer than any red (NTCIP 1202 allows `max_presence` up to 255 min; 10 is usual).
const STUCK_ON_MS: i64 = 10 * MINUTE_MS;
/// Vehicles elsewhere that show that traffic moves.
const MOVING_VEHICLES: f64 = 10.0;
/// Stuck on is over when it was free for so long in all, or has counted [`SEEN_VEHICLES`].
const FREED_MS: u32 = 300_000;

/// Vehicles after which a detector is not stuck any more.
const SEEN_VEHICLES: f32 = 5.0;

/// Flow that no lane carries for long, vehicles per second: saturation is at 0.5 to 0.6 (HCM), platoons at 0.8.
const FLOW_IMPOSSIBLE: f32 = 1.0;
/// Flow at which a count is not even worth adding up.
pub(super) const FLOW_ABSURD: f32 = 5.0;
/// Impossible flow has to last this long; five times as long without it is needed to forget it.
const IMPOSSIBLE_MS: u32 = 120_000;
const IMPOSSIBLE_KEPT_MS: u32 = 180_000;

/// A fault has to be reported for so long without a break; without one for so long it is over.
const REPORTED_MS: u32 = 60_000;
const UNREPORTED_MS: u32 = 300_000;

struct Threshold {
    raise: f32,
    clear: f32,
    max: f32,
}

/// One observation, of which nothing impossible is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// End of the period, ms since the epoch.
    pub(super) at: i64,
    /// Length of the period.
    pub(super) period_ms: u32,
    /// Vehicles counted.
    pub(super) volume: Option<f32>,
    /// Share of the period in which it was occupied.
    pub(super) occupancy: Option<f32>,
    /// What the device says of itself.
    pub(super) fault: Option<Fault>,
}

impl Sample {
    /// Vehicles per second; none without a count.
    pub(super) fn flow(&self) -> Option<f32> {
        self.volume.map(|volume| volume / seconds(self.period_ms))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a period needs no more than 24 bits")]
fn seconds(ms: u32) -> f32 {
    (ms as f32 / 1_000.0).max(0.1)
}

/// The physical state of one detector.
#[expect(clippy::struct_excessive_bools, reason = "each is the outcome of a test of its own")]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Presence {
    /// End of its newest period.
    pub(super) newest: Option<i64>,
    /// End of its first period.
    pub(super) first: Option<i64>,
    /// Length of its newest period; 0 for a channel of a controller, which reports changes.
    pub(super) period_ms: u32,
    silent: bool,
    /// From when on it has been heard without a break.
    heard_since: i64,
    gaps: f32,
    gap_run: u8,
    gappy: bool,
    /// Since when it is occupied, and what the junction had seen by then.
    occupied: Option<(i64, f64)>,
    /// While it counts as stuck: for how long in all it was not occupied, and what it counted.
    freed_ms: u32,
    freed_vehicles: f32,
    stuck_on: bool,
    impossible_ms: u32,
    impossible: bool,
    reported: Option<Fault>,
    reported_ms: u32,
    unreported_ms: u32,
}

impl Presence {
    /// The faults that stand.
    pub(super) fn faults(&self) -> Faults {
        let conditions = [(Fault::NoData, self.silent || self.gappy), (Fault::StuckOn, self.stuck_on), (Fault::Chatter, self.impossible)];
        let own = conditions.into_iter().filter_map(|(fault, stands)| stands.then_some(fault));
        own.chain(self.reported).collect()
    }

    /// Whether it just does not speak.
    pub(super) const fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether it loses too many readings.
    pub(super) const fn is_gappy(&self) -> bool {
        self.gappy
    }

    /// Evidence that it loses readings, a log likelihood ratio.
    pub(super) fn gaps(&self) -> f64 {
        f64::from(self.gaps)
    }

    /// Forgets when it was heard, if that was after `at`: the junction's time was wrong.
    pub(super) fn set_back(&mut self, at: i64) {
        if self.newest.is_some_and(|newest| newest > at) {
            (self.newest, self.first) = (None, None);
        }
    }

    /// How long it may be silent.
    pub(super) fn silence_max_ms(&self) -> i64 {
        (SILENT_PERIODS * i64::from(self.period_ms)).max(SILENT_MIN_MS)
    }

    /// Notes silence at an instant of the junction's time, given when it was last heard.
    pub(super) fn notice_silence(&mut self, heard: i64, now: i64) {
        self.silent |= now.saturating_sub(heard) >= self.silence_max_ms();
    }

    /// Notes that it has never been heard of.
    pub(super) const fn miss(&mut self) {
        self.silent = true;
    }

    /// Takes up a sample; `passed` are the vehicles that the junction has seen so far, `now` is the junction's time.
    pub(super) fn fold(&mut self, sample: &Sample, passed: f64, now: i64) {
        let pause = self.newest.map_or(i64::MAX, |newest| sample.at - newest);
        if pause > 2 * i64::from(sample.period_ms).max(5 * SECOND_MS) {
            // Nobody knows what it would have seen meanwhile.
            self.occupied = None;
        }
        self.hear(sample.at, sample.period_ms, now);
        self.fold_occupancy(sample, passed);
        self.fold_flow(sample);
        self.fold_reported(sample);
    }

    /// It is alive.
    pub(super) fn hear(&mut self, at: i64, period_ms: u32, now: i64) {
        let pause = self.newest.map_or(i64::MAX, |newest| at.saturating_sub(newest));
        self.period_ms = period_ms;
        let broken = pause > (2 * i64::from(period_ms)).max(10 * SECOND_MS) && self.silent;
        if broken || now.saturating_sub(at) >= self.silence_max_ms() {
            self.heard_since = at;
        }
        self.newest = Some(at);
        self.first.get_or_insert(at);
        let enough = (SILENT_PERIODS * i64::from(period_ms)).max(HEARD_MIN_MS);
        self.silent &= at.saturating_sub(self.heard_since) < enough;
    }

    /// Notes at the end of a bin which share of it was heard, relative to the detector of the junction heard most.
    pub(super) fn judge_gaps(&mut self, heard: f32) {
        self.gap_run = if heard < 0.2 { self.gap_run.saturating_add(1) } else { 0 };
        if self.gap_run > GAP_RUN_MAX {
            return;
        }
        let (lost, kept) = GAP_STEP;
        self.gaps = (self.gaps + lost * (1.0 - heard) + kept * heard).clamp(0.0, GAPS.max);
        self.gappy = if self.gappy { self.gaps > GAPS.clear } else { self.gaps >= GAPS.raise };
    }

    /// Who counts vehicles while it is occupied sees a queue move, and is not stuck.
    fn fold_occupancy(&mut self, sample: &Sample, passed: f64) {
        let Some(occupancy) = sample.occupancy else { return };
        let counted = sample.volume.unwrap_or(0.0);
        if occupancy >= OCCUPIED && counted <= 0.0 {
            let start = sample.at - i64::from(sample.period_ms);
            self.occupied.get_or_insert((start, passed));
            self.notice_occupied(sample.at, passed);
            return;
        }
        self.occupied = None;
        if self.stuck_on {
            self.freed_ms = self.freed_ms.saturating_add(sample.period_ms);
            self.freed_vehicles += counted;
            self.stuck_on = self.freed_ms < FREED_MS && self.freed_vehicles < SEEN_VEHICLES;
        }
        if !self.stuck_on {
            (self.freed_ms, self.freed_vehicles) = (0, 0.0);
        }
    }

    /// A channel went on.
    pub(super) fn occupy(&mut self, at: i64, passed: f64) {
        self.occupied.get_or_insert((at, passed));
    }

    /// A channel went off.
    pub(super) const fn free(&mut self) {
        self.occupied = None;
        self.stuck_on = false;
    }

    /// Notes for how long it has been occupied.
    pub(super) fn notice_occupied(&mut self, now: i64, passed: f64) {
        self.stuck_on |= self.occupied.is_some_and(|(since, before)| now - since >= STUCK_ON_MS && passed - before >= MOVING_VEHICLES);
    }

    fn fold_flow(&mut self, sample: &Sample) {
        let Some(flow) = sample.flow() else { return };
        self.impossible_ms = if flow > FLOW_IMPOSSIBLE {
            self.impossible_ms.saturating_add(sample.period_ms).min(IMPOSSIBLE_KEPT_MS)
        } else {
            self.impossible_ms.saturating_sub(sample.period_ms / 5)
        };
        self.impossible = if self.impossible { self.impossible_ms > 0 } else { self.impossible_ms >= IMPOSSIBLE_MS };
    }

    fn fold_reported(&mut self, sample: &Sample) {
        if let Some(fault) = sample.fault {
            self.unreported_ms = 0;
            self.reported_ms = self.reported_ms.saturating_add(sample.period_ms);
            if self.reported_ms >= REPORTED_MS {
                self.reported = Some(fault);
            }
        } else {
            self.reported_ms = 0;
            self.unreported_ms = self.unreported_ms.saturating_add(sample.period_ms);
            if self.unreported_ms >= UNREPORTED_MS {
                self.reported = None;
            }
        }
    }

    /// A controller reports a fault of one of its channels, or that it is over.
    pub(super) const fn report(&mut self, fault: Option<Fault>) {
        self.reported = fault;
    }
}
