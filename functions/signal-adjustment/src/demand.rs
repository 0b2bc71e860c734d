//! How many vehicles wait on each lane and arrive at it: as its detector sees them; else as counts, the signal and the usual demand tell.
//!
//! A camera or a radar sees who waits. A loop at the stop line does not: who arrives is reckoned at the rate of the last minutes, who
//! leaves is counted, and whether anybody is left the loop shows. A lane that nobody sees, because it has no detector or none that can be
//! trusted, has to be served all the same: its vehicles arrive as on the lanes that are seen, and leave as the model says.

use serde::{Deserialize, Serialize};
use shared::intersection::Intersection;
use shared::units::{Deciseconds, Timestamp};

use crate::control::{flow_into, open_exits};
use crate::estimate::{
    Arrivals, DETECTION_RANGE_M, DetectorState, Distrust, Estimate, RATE_PRIOR, STOOD_UPON, Seen, VEHICLE_SPACING_M, longest_silence,
    served,
};
use crate::signal::{Phase, SignalState};

/// A loop is touched by nobody if it was occupied for less than this, s: who passes at 50 km/h is over it for half a second.
const TOUCHED_S: f64 = 0.3;
/// A queue discharges at its full flow as long as it lasts. It is over if less than the first share of it passed; if the second share
/// passed, it lasts.
const QUEUE_OVER: f64 = 0.5;
const QUEUE_LASTS: f64 = 0.8;
/// So many follow at least while a queue lasts.
const FOLLOWING: f64 = 2.0;
/// A period in which fewer could pass says nothing of a queue.
const TELLING: f64 = 2.0;
/// By then the first vehicles of a queue pass at full flow; those that give way may wait longer for a gap.
pub(crate) const START_UP: Deciseconds = Deciseconds::from_secs(2);
const GAP: Deciseconds = Deciseconds::from_secs(10);
/// Stored resolution: 4096ths of a vehicle, as what arrives in a second may be added up.
const QUEUE_STEPS: f64 = 4096.0;

/// Vehicles that wait on a lane, at the state of the signal to which they were moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Queue {
    /// In 4096ths.
    waiting: u32,
    /// Those who are reckoned to have left since the detector last reported, in 4096ths.
    let_pass: u32,
}

impl Queue {
    /// As it was seen.
    pub(crate) fn of(waiting: f64) -> Self {
        Self::reckoned(waiting, 0.0)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32 first")]
    pub(crate) fn reckoned(waiting: f64, let_pass: f64) -> Self {
        let steps = |vehicles: f64| (vehicles * QUEUE_STEPS).round().clamp(0.0, f64::from(u32::MAX)) as u32;
        Self { waiting: steps(waiting), let_pass: steps(let_pass) }
    }

    pub(crate) fn waiting(self) -> f64 {
        f64::from(self.waiting) / QUEUE_STEPS
    }

    pub(crate) fn let_pass(self) -> f64 {
        f64::from(self.let_pass) / QUEUE_STEPS
    }
}

/// What is known of one lane, moved to now.
pub(crate) struct LaneDemand {
    /// Vehicles at the stop line.
    pub(crate) queue: f64,
    seen: Arrivals,
    /// Seconds since the arrivals were seen.
    age: usize,
    /// Vehicles a second that arrive unseen.
    pub(crate) unseen: f64,
}

impl LaneDemand {
    /// Vehicles that are seen to arrive, in each second from now on.
    pub(crate) fn arrivals(&self) -> impl Iterator<Item = f64> {
        self.seen.vehicles().skip(self.age)
    }
}

impl Estimate {
    /// What is known of each lane. The queues must have been moved to the same instant.
    pub(crate) fn demand(&self, intersection: &Intersection, now: Timestamp) -> Vec<LaneDemand> {
        let usual = self.usual_rate(intersection, now);
        let lanes = self.by_lane(intersection).into_iter().zip(self.waiting());
        lanes
            .map(|(detector, queue)| match detector.filter(|d| d.seen != Seen::Nothing && d.is_trusted(intersection, now)) {
                // A loop sees nobody arrive either, but it will tell of who did before long.
                Some(detector) => LaneDemand { queue, seen: detector.arrivals, age: detector.age(now), unseen: 0.0 },
                None => LaneDemand { queue, seen: Arrivals::default(), age: 0, unseen: rate(detector.as_ref(), intersection, usual, now) },
            })
            .collect()
    }

    /// Moves the queues from one state of the signal to the next, with what the detectors said since.
    pub fn advance(&mut self, intersection: &Intersection, before: Option<&SignalState>, now: &SignalState) {
        let before = before.filter(|before| now.at.since(before.at) < longest_silence(intersection));
        let usual = self.usual_rate(intersection, now.at);
        let open = open_exits(intersection, self, now.at);
        let lanes = intersection.lanes().iter().zip(self.by_lane(intersection)).zip(self.queues.iter().copied()).enumerate();
        let moved = lanes.map(|(number, ((lane, detector), queue))| {
            let trusted = detector.filter(|d| d.is_trusted(intersection, now.at));
            let new = trusted.filter(|d| before.is_none_or(|before| d.is_newer_than(before.at)));
            if let Some(seen) = new.and_then(|d| d.waiting()) {
                return Queue::of(seen);
            }
            let rate = rate(detector.as_ref(), intersection, usual, now.at);
            let (mut waiting, mut let_pass) = match before {
                None => (rate * red_for(intersection, now, number).as_secs(), 0.0),
                Some(before) => {
                    let arrived = match trusted.filter(|d| d.waiting().is_some()) {
                        Some(seen) => seen.arrivals.vehicles().take(seen.age(now.at)).skip(seen.age(before.at)).sum(),
                        None => rate * now.at.since(before.at).as_secs(),
                    };
                    let present = queue.waiting() + arrived;
                    let passed = self.could_pass(intersection, number, before, now, &open).min(present);
                    (present - passed, queue.let_pass() + passed)
                }
            };
            if let Some((passed, share)) = new.and_then(|d| Some((d.seen.passed()?, d.seen.share_reported()))).filter(|_| before.is_some())
            {
                // What was counted takes the place of what was reckoned for the same time.
                waiting += share * let_pass - passed;
            }
            if detector.is_none_or(|d| d.last.is_none() || before.is_none_or(|before| d.is_newer_than(before.at))) {
                // The next count covers the time from here on, whether this reading could be used or not.
                let_pass = 0.0;
            }
            let mut most = lane.length_m.min(DETECTION_RANGE_M) / VEHICLE_SPACING_M;
            if trusted.is_none_or(|d| d.waiting().is_none()) {
                // A rate and counts drift apart: no more are reckoned to wait than arrive in the longest red.
                most = most.min(rate * intersection.red_max().as_secs());
            }
            waiting = waiting.clamp(0.0, most.max(1.0));
            if let Some(detector) = new {
                waiting = self.as_the_loop_tells(intersection, (number, waiting), &detector, now, &open);
            }
            Queue::reckoned(waiting, let_pass)
        });
        self.queues = moved.collect();
    }

    /// The usual rate of a lane, vehicles per second: the mean of those that are seen.
    fn usual_rate(&self, intersection: &Intersection, now: Timestamp) -> f64 {
        let seen = self.by_lane(intersection).into_iter().flatten().filter(|d| d.is_trusted(intersection, now));
        let (sum, count) = seen.filter_map(|d| d.rate()).fold((0.0, 0.0), |(sum, count), rate| (sum + rate, count + 1.0));
        if count > 0.0 { sum / count } else { RATE_PRIOR }
    }

    /// Vehicles that a lane can have discharged between two states of the signal.
    fn could_pass(&self, intersection: &Intersection, lane: usize, before: &SignalState, now: &SignalState, open: &[f64]) -> f64 {
        let greens = greens_between(intersection, before, now);
        greens.into_iter().map(|(stage, green)| self.flow(intersection, lane, stage, open) * green.as_secs()).sum()
    }

    /// Vehicles a second that a lane discharges in a stage while a queue lasts, by what was learnt.
    fn flow(&self, intersection: &Intersection, lane: usize, stage: usize, open: &[f64]) -> f64 {
        let learnt = served(intersection).zip(self.discharge()).find(|(pair, _)| *pair == (lane, stage));
        learnt.map_or(0.0, |(_, discharge)| flow_into(intersection, lane, stage, open) * discharge.factor())
    }

    /// The queue by what a loop at its head says of it.
    fn as_the_loop_tells(
        &self,
        intersection: &Intersection,
        (lane, queue): (usize, f64),
        detector: &DetectorState,
        now: &SignalState,
        open: &[f64],
    ) -> f64 {
        let period = Deciseconds::new(detector.period_ds);
        let (passed, occupancy) = (detector.seen.passed(), detector.seen.occupancy());
        let least = if occupancy.is_some_and(|occupancy| occupancy >= STOOD_UPON) { 1.0 } else { 0.0 };
        let untouched =
            occupancy.is_some_and(|occupancy| occupancy * period.as_secs() < TOUCHED_S) && passed.is_none_or(|passed| passed <= 0.0);
        let shown = match now.phase {
            Phase::Green { stage, since } => Some((stage, since, self.flow(intersection, lane, stage, open) * period.as_secs())),
            Phase::Clearing { .. } => None,
        };
        // In a short period of a green it may have been between two vehicles.
        if untouched && shown.is_none_or(|(_, _, full)| full <= 0.0 || full >= TELLING) {
            return 0.0;
        }
        let queue = queue.max(least);
        let Some((stage, since, full)) = shown else { return queue };
        let gives_way = intersection.stages().get(stage).is_some_and(|stage| {
            let of_lane = |movement: usize| intersection.movements().get(movement).is_some_and(|m| m.from_lane == Some(lane));
            stage.permitted.iter().any(of_lane)
        });
        let start_up = if gives_way { GAP } else { START_UP };
        let moving = since + start_up + period <= now.at;
        match passed.filter(|_| moving && full >= TELLING) {
            // Who stands there all the same does not get away: more green would be no use to those behind.
            Some(passed) if passed < QUEUE_OVER * full => queue.min(least),
            Some(passed) if passed >= QUEUE_LASTS * full => queue.max(FOLLOWING),
            _ => queue,
        }
    }
}

/// Vehicles a second that arrive at a lane on which nobody sees them. Of a detector that is not to be trusted any more the rate before
/// is kept, unless others have more by now.
fn rate(detector: Option<&DetectorState>, intersection: &Intersection, usual: f64, now: Timestamp) -> f64 {
    let Some(detector) = detector else { return usual };
    let own = detector.rate().unwrap_or(usual);
    match detector.distrust(now, longest_silence(intersection)) {
        None => own,
        Some(Distrust::InAlarm) => usual,
        Some(_) => own.max(usual),
    }
}

/// How long no movement of a lane has been green, at most the longest red.
fn red_for(intersection: &Intersection, state: &SignalState, lane: usize) -> Deciseconds {
    let of_lane = intersection.movements().iter().zip(&state.red_since).filter(|(m, _)| m.from_lane == Some(lane));
    let red = of_lane.map(|(_, red)| red.unwrap_or(state.at)).max();
    red.map_or(Deciseconds::ZERO, |since| state.at.since(since).min(intersection.red_max()))
}

/// How long the stage shown before and the stage shown now were green between two states, as far as these tell.
fn greens_between(intersection: &Intersection, before: &SignalState, now: &SignalState) -> [(usize, Deciseconds); 2] {
    let since = |stage: usize, from: Timestamp, to: Timestamp| (stage, to.min(now.at).since(from.max(before.at)));
    let shown = match now.phase {
        Phase::Green { stage, since: began } => since(stage, began, now.at),
        Phase::Clearing { to, .. } => (to, Deciseconds::ZERO),
    };
    let ended = match (before.phase, now.phase) {
        (Phase::Clearing { from, .. }, _) => (from, Deciseconds::ZERO),
        (Phase::Green { stage, .. }, Phase::Green { stage: next, since: began }) if stage == next && began <= before.at => {
            (stage, Deciseconds::ZERO)
        }
        // Another stage was shown between: nobody knows for how long.
        (Phase::Green { stage, .. }, Phase::Clearing { from, .. }) if from != stage => (stage, Deciseconds::ZERO),
        (Phase::Green { stage, .. }, later) => since(stage, before.at, before.ended_before(intersection, later)),
    };
    [ended, shown]
}
