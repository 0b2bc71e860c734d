//! The safety envelope: the only way to a plan.
//!
//! [`SignalPlan::new`] proves that a controller that follows the plan keeps minimum and maximum green, the full clearance at
//! every change, the longest red of every movement, and that the plan says what to do until it expires. A plan that breaks
//! a limit cannot exist.
//!
//! Longest red needs foresight: two movements can each have seconds left and still not both be served in time. So wherever
//! the plan may be left, there must be a way to serve everybody in time: the *recovery*, which visits the stages of
//! [`Intersection::cover`] in the order of their most urgent movement, each with its shortest green. Leaving earlier only
//! makes it start earlier; therefore it is enough to check it at the end of every green.

use shared::intersection::Intersection;
use shared::units::{Deciseconds, Timestamp};

use crate::signal::{Phase, SignalState};

/// The span in which one stage is green.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// Number of the stage.
    pub stage: usize,
    /// When its green begins (or began, if it is running).
    pub start: Timestamp,
    /// How long its green lasts.
    pub green: Deciseconds,
}

impl PlannedStage {
    /// When its green ends and its yellow begins.
    pub fn end(&self) -> Timestamp {
        self.start + self.green
    }
}

/// A plan inside the safety envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalPlan {
    stages: Vec<PlannedStage>,
    as_of: Timestamp,
    valid_until: Timestamp,
}

/// Which limit a sequence of stages breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SafetyViolation {
    /// There is no stage, or more than [`SignalPlan::STAGES_MAX`].
    #[error("a plan has 1 to {max} stages, not {0}", max = SignalPlan::STAGES_MAX)]
    Length(usize),
    /// An entry names a stage that the intersection does not have.
    #[error("entry {0} names no stage of the intersection")]
    UnknownStage(usize),
    /// The state is not one that the intersection can be in.
    #[error("the state of the signal does not fit the intersection")]
    State,
    /// The first entry is not what the signal shows or is clearing to.
    #[error("the first entry is not the running stage with the moment its green began or will begin")]
    NotRunning,
    /// An entry names the stage before it again.
    #[error("entry {0} repeats the stage before it")]
    Repeated(usize),
    /// A green ends before now, or before the minimum green (which covers walk and pedestrian clearance).
    #[error("the green of entry {0} is shorter than its minimum or ends in the past")]
    GreenMin(usize),
    /// A green is longer than the maximum.
    #[error("the green of entry {0} is longer than its maximum")]
    GreenMax(usize),
    /// A green does not begin exactly one clearance after the green before it: yellow change + red clearance, or nothing if
    /// no movement loses its green.
    #[error("entry {0} does not begin one yellow change and red clearance after the green before it")]
    Clearance(usize),
    /// A movement would be red for too long, or could not be saved from it any more.
    #[error("movement {movement} would be red for longer than its maximum if entry {entry} is followed to its end")]
    RedMax {
        /// Number of the movement.
        movement: usize,
        /// Number of the entry.
        entry: usize,
    },
    /// The plan ends before it expires.
    #[error("the last green ends before the plan expires")]
    Horizon,
}

impl SignalPlan {
    /// Enough for every usual time to live; a plan of so many stages expires with the last of them.
    pub const STAGES_MAX: usize = 80;

    /// Proves the stages safe from this state on.
    ///
    /// The first entry is the running stage (or the one being cleared to), with the moment its green began; its green counts
    /// from there. If the signal is outside the envelope already (it was run by hand, or its reports were missing), the plan
    /// must lead back: the running stage may be left at once, and every movement must be green no later than the recovery
    /// would make it.
    ///
    /// # Errors
    /// The first [`SafetyViolation`] found.
    pub fn new(intersection: &Intersection, state: &SignalState, stages: Vec<PlannedStage>) -> Result<Self, SafetyViolation> {
        let Some(first) = stages.first().filter(|_| stages.len() <= Self::STAGES_MAX) else {
            return Err(SafetyViolation::Length(stages.len()));
        };
        if !state.fits(intersection) {
            return Err(SafetyViolation::State);
        }
        let running = state.phase.reached();
        if running != (first.stage, first.start) {
            return Err(SafetyViolation::NotRunning);
        }
        let mut ledger = RedLedger::of(intersection, state, intersection.red_max());
        let mut before: Option<&PlannedStage> = None;
        for (i, entry) in stages.iter().enumerate() {
            let stage = intersection.stages().get(entry.stage).ok_or(SafetyViolation::UnknownStage(i))?;
            if let Some(before) = before {
                if before.stage == entry.stage {
                    return Err(SafetyViolation::Repeated(i));
                }
                if entry.start != before.end() + intersection.clearance_between(before.stage, entry.stage) {
                    return Err(SafetyViolation::Clearance(i));
                }
                ledger.leave(intersection, before.stage, entry.stage, before.end());
            }
            ledger.serve(intersection, entry.stage, entry.start).map_err(|movement| SafetyViolation::RedMax { movement, entry: i })?;
            let shortest_end = if i == 0 { state.earliest_end(intersection) } else { entry.start + stage.green_min };
            if entry.end() < shortest_end {
                return Err(SafetyViolation::GreenMin(i));
            }
            if intersection.stages().len() > 1 {
                if entry.green > stage.green_max && entry.end() > shortest_end {
                    return Err(SafetyViolation::GreenMax(i));
                }
                if let Err(movement) = ledger.slack(intersection, entry.stage, entry.end()) {
                    return Err(SafetyViolation::RedMax { movement, entry: i });
                }
            }
            before = Some(entry);
        }
        let mut valid_until = state.at + intersection.control().plan_ttl;
        if let Some(last) = before.filter(|last| last.end() < valid_until) {
            if stages.len() < Self::STAGES_MAX {
                return Err(SafetyViolation::Horizon);
            }
            valid_until = last.end();
        }
        Ok(Self { stages, as_of: state.at, valid_until })
    }

    /// Whether every movement can still be served before its longest red is over; if not, a plan only leads back.
    pub fn is_within_red_max(intersection: &Intersection, state: &SignalState) -> bool {
        let ledger = RedLedger::of(intersection, state, intersection.red_max());
        ledger.waiting.iter().flatten().all(|waiting| waiting.deadline == waiting.since + intersection.red_max())
    }

    /// Green spans in order, one clearance apart.
    pub fn stages(&self) -> &[PlannedStage] {
        &self.stages
    }

    /// Event time of the state it begins with.
    pub const fn as_of(&self) -> Timestamp {
        self.as_of
    }

    /// Past this the controller returns to its time-of-day plan.
    pub const fn valid_until(&self) -> Timestamp {
        self.valid_until
    }
}

/// Which movements wait, since when, and until when they must be green.
#[derive(Clone, Debug)]
pub(crate) struct RedLedger {
    waiting: Vec<Option<Waiting>>,
    red_max: Deciseconds,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Timestamp,
    deadline: Timestamp,
}

impl RedLedger {
    /// The ledger at a state, for a longest red. Where that cannot be kept any more, the recovery's own time is the deadline.
    pub(crate) fn of(intersection: &Intersection, state: &SignalState, red_max: Deciseconds) -> Self {
        let waiting = state.red_since.iter().map(|red| red.map(|since| Waiting { since, deadline: since + red_max })).collect();
        let mut ledger = Self { waiting, red_max };
        let stage = state.stage();
        if let Phase::Clearing { until, .. } = state.phase {
            // Nothing can make this green come sooner.
            for movement in intersection.movements_of(stage).iter() {
                ledger.relax(movement, until);
            }
        }
        let mut ahead = ledger.clone();
        let began = match state.phase {
            Phase::Green { since, .. } => since,
            Phase::Clearing { until, .. } => until,
        };
        // The deadlines of the running stage are met by the lines above.
        let _ = ahead.serve(intersection, stage, began);
        ahead.recover(intersection, stage, state.earliest_end(intersection), |movement, _, start| ledger.relax(movement, start));
        ledger
    }

    fn relax(&mut self, movement: usize, deadline: Timestamp) {
        if let Some(Some(waiting)) = self.waiting.get_mut(movement) {
            waiting.deadline = waiting.deadline.max(deadline);
        }
    }

    /// The green of a stage ends: what the next one does not serve turns red.
    pub(crate) fn leave(&mut self, intersection: &Intersection, from: usize, to: usize, at: Timestamp) {
        let ended = intersection.movements_of(from).minus(intersection.movements_of(to));
        for movement in ended.iter() {
            if let Some(slot) = self.waiting.get_mut(movement) {
                *slot = Some(Waiting { since: at, deadline: at + self.red_max });
            }
        }
    }

    /// The green of a stage begins.
    ///
    /// # Errors
    /// A movement for which it comes too late.
    pub(crate) fn serve(&mut self, intersection: &Intersection, stage: usize, at: Timestamp) -> Result<(), usize> {
        let mut late = None;
        for movement in intersection.movements_of(stage).iter() {
            if let Some(waiting) = self.waiting.get_mut(movement).and_then(Option::take)
                && waiting.deadline < at
            {
                late.get_or_insert(movement);
            }
        }
        late.map_or(Ok(()), Err)
    }

    /// How much later than `leave` the stage could be left with everybody still served in time by the recovery.
    ///
    /// # Errors
    /// A movement that would be served too late.
    pub(crate) fn slack(&self, intersection: &Intersection, from: usize, leave: Timestamp) -> Result<Deciseconds, usize> {
        let mut ahead = self.clone();
        let mut slack = Deciseconds::new(u32::MAX);
        let mut late = None;
        ahead.recover(intersection, from, leave, |movement, deadline, start| {
            if deadline < start {
                late.get_or_insert(movement);
            }
            slack = slack.min(deadline.since(start));
        });
        late.map_or(Ok(slack), Err)
    }

    /// The stage that the recovery would visit first after leaving `from`.
    pub(crate) fn most_urgent(&self, intersection: &Intersection, from: usize, leave: Timestamp) -> Option<usize> {
        let mut ahead = self.clone();
        for movement in intersection.movements_of(from).iter() {
            ahead.turn_red(movement, leave);
        }
        ahead.next_of_recovery(intersection, from)
    }

    fn turn_red(&mut self, movement: usize, at: Timestamp) {
        if let Some(slot) = self.waiting.get_mut(movement) {
            slot.get_or_insert(Waiting { since: at, deadline: at + self.red_max });
        }
    }

    /// The stage of the cover that serves the most urgent movement, other than the current one.
    fn next_of_recovery(&self, intersection: &Intersection, current: usize) -> Option<usize> {
        let mut most: Option<((Timestamp, Timestamp), usize)> = None;
        for (movement, waiting) in self.waiting.iter().enumerate() {
            let Some(Waiting { since, deadline }) = *waiting else { continue };
            // Of two that are as urgent, the first.
            if most.is_none_or(|(urgency, _)| (deadline, since) < urgency)
                && let Some(stage) = intersection.home_of(movement).filter(|&stage| stage != current)
            {
                most = Some(((deadline, since), stage));
            }
        }
        most.map(|(_, stage)| stage)
    }

    /// Runs the recovery; tells of each movement its deadline and when it turns green.
    fn recover(&mut self, intersection: &Intersection, from: usize, leave: Timestamp, mut green: impl FnMut(usize, Timestamp, Timestamp)) {
        for movement in intersection.movements_of(from).iter() {
            self.turn_red(movement, leave);
        }
        let (mut current, mut now) = (from, leave);
        // Each visit serves at least one movement, and none turns red again: the cover's cycle fits the longest red.
        while let Some(next) = self.next_of_recovery(intersection, current) {
            let start = now + intersection.clearance_between(current, next);
            for movement in intersection.movements_of(next).iter() {
                if let Some(waiting) = self.waiting.get_mut(movement).and_then(Option::take) {
                    green(movement, waiting.deadline, start);
                }
            }
            let green_min = intersection.stages().get(next).map_or(Deciseconds::ZERO, |s| s.green_min);
            (current, now) = (next, start + green_min);
        }
    }
}
