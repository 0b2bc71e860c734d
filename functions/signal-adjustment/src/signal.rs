//! What a signal shows and since when each movement is red: observed where the controller reports, else assumed.

use shared::ids::StageId;
use shared::intersection::Intersection;
use shared::reading::{SignalMode, SignalStateReading};
use shared::units::{Deciseconds, Timestamp};

use crate::plan::PlannedStage;

/// Green or on the way to the next green.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The stage has been green since then.
    Green {
        /// Number of the stage.
        stage: usize,
        /// When its green began.
        since: Timestamp,
    },
    /// Yellow or all red.
    Clearing {
        /// Number of the stage that ended.
        from: usize,
        /// Number of the stage that follows.
        to: usize,
        /// When its green begins.
        until: Timestamp,
    },
}

impl Phase {
    /// The stage that is green or about to be, and when its green begins.
    pub const fn reached(self) -> (usize, Timestamp) {
        match self {
            Self::Green { stage, since } => (stage, since),
            Self::Clearing { to, until, .. } => (to, until),
        }
    }
}

/// What the signal shows at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalState {
    /// The instant.
    pub at: Timestamp,
    /// What is green.
    pub phase: Phase,
    /// Who runs the signal.
    pub mode: SignalMode,
    /// When the controller said so.
    pub mode_at: Timestamp,
    /// Since when each movement is red, by its number; none while it is green.
    pub red_since: Vec<Option<Timestamp>>,
}

/// What a controller reported, with stages by number and times on the grid of a tenth of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When.
    pub at: Timestamp,
    /// Green or clearing.
    pub phase: Phase,
    /// Who runs the signal.
    pub mode: SignalMode,
}

/// A clearance that is said to last so much longer than configured is no clearance.
const CLEARANCE_MARGIN: Deciseconds = Deciseconds::from_secs(10);

/// The step that an instant belongs to.
pub(crate) const fn second(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1000)
}

impl Observation {
    /// Translates a reading; none if it names a stage that the intersection does not have, or a clearance that cannot be.
    pub fn of(reading: &SignalStateReading, intersection: &Intersection) -> Option<Self> {
        let number = |id: &StageId| intersection.stages().iter().position(|stage| stage.id == *id);
        let stage = number(&reading.stage)?;
        let phase = match &reading.clearing {
            Some((_, remaining)) if *remaining > intersection.clearance(stage) + CLEARANCE_MARGIN => return None,
            // Within the margin the controller knows best how long it will take.
            Some((to, remaining)) => Phase::Clearing { from: stage, to: number(to)?, until: (reading.time + *remaining).round_to_tenth() },
            None => Phase::Green { stage, since: (reading.time - reading.stage_elapsed).round_to_tenth() },
        };
        Some(Self { at: reading.time, phase, mode: reading.mode })
    }

    /// What of it can be true after the state before, if the controller reported then too: a green that was not on yet began after that,
    /// and one that was on has become neither younger nor older. Else it began when the plan said, if one was followed: a wrong
    /// `stage_elapsed_s` would end greens before their minimum, or never.
    #[must_use]
    pub fn credible(self, intersection: &Intersection, before: &SignalState, planned: Option<&SignalState>) -> Self {
        let Phase::Green { stage, since } = self.phase else { return self };
        let reported = before.is_reported();
        let adaptive = self.mode == SignalMode::Adaptive && before.mode == SignalMode::Adaptive;
        if !reported || !adaptive {
            return self;
        }
        let planned = planned.and_then(|planned| match planned.phase {
            Phase::Green { stage: same, since } if same == stage => Some(since),
            _ => None,
        });
        // Who claims to have begun before the plan said has done something else or counts wrongly: then it began when the plan said.
        let not_early = |since: Timestamp| planned.map_or(since, |planned| planned.max(since));
        let since = match before.phase {
            Phase::Green { stage: same, since: known } if same == stage => {
                let apart = since.since(known).max(known.since(since));
                let returned = || shortest_absence(intersection, stage).is_some_and(|absence| since >= before.at + absence);
                match planned {
                    _ if apart <= Deciseconds::from_secs(1) => known,
                    Some(planned) if planned > before.at => planned.max(since),
                    _ if returned() => since,
                    _ => known,
                }
            }
            Phase::Green { stage: other, .. } => not_early(since.max(before.at + intersection.clearance_between(other, stage))),
            Phase::Clearing { to, until, .. } if to == stage => not_early(since.max(until)),
            Phase::Clearing { .. } => not_early(since.max(before.at)),
        };
        Self { phase: Phase::Green { stage, since: since.min(self.at.floor_to_tenth()) }, ..self }
    }
}

/// The shortest time in which another stage can be shown and the signal be back.
fn shortest_absence(intersection: &Intersection, stage: usize) -> Option<Deciseconds> {
    let others = intersection.stages().iter().enumerate().filter(|(other, _)| *other != stage);
    let visits = others.map(|(other, shown)| {
        intersection.clearance_between(stage, other) + shown.green_min + intersection.clearance_between(other, stage)
    });
    visits.min()
}

impl SignalState {
    /// The state when nothing but the clock is known: the controller runs its time-of-day plan.
    pub fn on_time_of_day(intersection: &Intersection, at: Timestamp) -> Self {
        let (entry, into) = intersection.time_of_day_at(at);
        let plan = &intersection.time_of_day().stages;
        let Some(&(stage, green)) = plan.get(entry) else {
            return Self::unknown_before(intersection, at, Phase::Green { stage: 0, since: at });
        };
        let since = at - into;
        let phase = if into < green {
            Phase::Green { stage, since }
        } else {
            let to = plan.get((entry + 1) % plan.len()).map_or(stage, |next| next.0);
            if to == stage {
                Phase::Green { stage, since }
            } else {
                Phase::Clearing { from: stage, to, until: since + green + intersection.clearance(stage) }
            }
        };
        Self::unknown_before(intersection, at, phase)
    }

    /// The state in this phase when nothing is known of the time before: the time-of-day plan is assumed to have led here.
    pub fn unknown_before(intersection: &Intersection, at: Timestamp, phase: Phase) -> Self {
        let (stage, since) = match phase {
            Phase::Green { stage, since } => (stage, since),
            Phase::Clearing { from, until, .. } => (from, until - intersection.clearance(from)),
        };
        let mut red_since: Vec<_> = intersection.movements().iter().map(|_| Some(since)).collect();
        let plan = &intersection.time_of_day().stages;
        if let Some(entry) = plan.iter().position(|&(s, _)| s == stage) {
            // Walk the plan backwards: the movements of each entry turned red when its green ended.
            let mut green_began = match phase {
                Phase::Green { since, .. } => since,
                Phase::Clearing { .. } => since - plan.get(entry).map_or(Deciseconds::ZERO, |e| e.1),
            };
            let mut known = intersection.movements_of(stage);
            for &(before, green) in plan.iter().rev().cycle().skip(plan.len() - entry).take(plan.len().saturating_sub(1)) {
                let ended = green_began - intersection.clearance(before);
                for movement in intersection.movements_of(before).minus(known).iter() {
                    set(&mut red_since, movement, Some(ended));
                }
                known = known.union(intersection.movements_of(before));
                green_began = ended - green;
            }
        }
        let mut state = Self { at, phase, mode: SignalMode::Adaptive, mode_at: at - Deciseconds::from_secs(1), red_since };
        state.settle(intersection, stage, since);
        state
    }

    /// Turns the movements of the phase green, and those of a stage that ended red.
    fn settle(&mut self, intersection: &Intersection, was_green: usize, fallback: Timestamp) {
        match self.phase {
            Phase::Green { stage, .. } => {
                for movement in intersection.movements_of(stage).iter() {
                    set(&mut self.red_since, movement, None);
                }
                for movement in intersection.movements_of(was_green).minus(intersection.movements_of(stage)).iter() {
                    turn_red(&mut self.red_since, movement, fallback);
                }
            }
            Phase::Clearing { from, to, until } => {
                let ended = (until - intersection.clearance(from)).min(self.at);
                for movement in intersection.movements_of(from).iter() {
                    let stays = intersection.movements_of(to).contains(movement);
                    set(&mut self.red_since, movement, (!stays).then_some(ended));
                }
            }
        }
    }

    /// The stage that is green, was until this clearance, or is about to be.
    pub const fn stage(&self) -> usize {
        match self.phase {
            Phase::Green { stage, .. } => stage,
            Phase::Clearing { to, .. } => to,
        }
    }

    /// Whether the controller reported in this step.
    pub(crate) fn is_reported(&self) -> bool {
        second(self.at) == second(self.mode_at)
    }

    /// Whether the controller has reported since the phase that is shown began; else it is assumed from the plan.
    pub(crate) fn is_seen(&self, intersection: &Intersection) -> bool {
        let began = match self.phase {
            Phase::Green { since, .. } => since,
            Phase::Clearing { from, until, .. } => until - intersection.clearance(from),
        };
        self.is_reported() || began < self.mode_at.floor_to_tenth()
    }

    /// Whether the report shows what this state does.
    pub fn agrees_with(&self, observation: Observation) -> bool {
        match (self.phase, observation.phase) {
            (Phase::Green { stage: a, .. }, Phase::Green { stage: b, .. }) => a == b,
            (Phase::Clearing { from: a, to: b, .. }, Phase::Clearing { from: c, to: d, .. }) => (a, b) == (c, d),
            _ => false,
        }
    }

    /// When the green that is shown began by this state and by the report, if they differ by more than a second.
    pub fn contradicts(&self, observation: Observation) -> Option<(Timestamp, Timestamp)> {
        match (self.phase, observation.phase) {
            (Phase::Green { since: here, .. }, Phase::Green { since: said, .. }) => {
                let apart = here.since(said).max(said.since(here));
                (apart > Deciseconds::from_secs(1)).then_some((here, said))
            }
            _ => None,
        }
    }

    /// Takes over what the controller reported, at an instant not before this state.
    pub fn observe(&mut self, intersection: &Intersection, at: Timestamp, observation: Observation) {
        let before = self.clone();
        self.at = at;
        self.mode = observation.mode;
        self.mode_at = observation.at;
        self.phase = match observation.phase {
            Phase::Clearing { to, until, .. } if until <= at => Phase::Green { stage: to, since: until },
            phase => phase,
        };
        let green = match self.phase {
            Phase::Green { stage, .. } => intersection.movements_of(stage),
            Phase::Clearing { from, to, .. } => intersection.movements_of(from).union(intersection.movements_of(to)),
        };
        let ended = before.ended_before(intersection, self.phase).min(at);
        let goes_on = match (before.phase, self.phase) {
            (Phase::Clearing { from: a, to: b, until: due }, Phase::Clearing { from, to, until }) => {
                (a, b) == (from, to) && until - intersection.clearance(from) <= due + CLEARANCE_MARGIN
            }
            _ => false,
        };
        for movement in 0..self.red_since.len() {
            if !green.contains(movement) {
                turn_red(&mut self.red_since, movement, ended);
            }
        }
        self.settle(intersection, self.stage(), ended);
        if goes_on {
            // However long it takes: what turned red when it began is red since then.
            for (red, was) in self.red_since.iter_mut().zip(&before.red_since) {
                *red = red.map(|now| was.map_or(now, |was| was.min(now)));
            }
        }
        if let Phase::Clearing { from, to, .. } = self.phase {
            // What the next stage serves is still red during the clearance, unless it keeps its green.
            for movement in intersection.movements_of(to).minus(intersection.movements_of(from)).iter() {
                turn_red(&mut self.red_since, movement, ended);
            }
        }
    }

    /// When the green of this state ended, if another phase is shown later: just before that phase if it followed directly.
    /// If there was time for a stage between, nobody knows; then it may have ended at once.
    pub(crate) fn ended_before(&self, intersection: &Intersection, later: Phase) -> Timestamp {
        let began = match later {
            Phase::Green { since, .. } => since,
            Phase::Clearing { from, until, .. } => until - intersection.clearance(from),
        };
        let old = match self.phase {
            Phase::Green { stage, .. } => stage,
            Phase::Clearing { from, .. } => from,
        };
        let direct = match later {
            Phase::Green { stage, .. } if stage != old => began - intersection.clearance_between(old, stage),
            Phase::Green { .. } | Phase::Clearing { .. } => began,
        };
        let shortest_visit = intersection.stages().iter().map(|s| s.green_min + s.clearance()).min().unwrap_or_default();
        if began.since(self.at) >= intersection.clearance(old) + shortest_visit { self.at } else { direct }
    }

    /// Whether the state is one that the intersection can be in: its stages exist, and exactly what they serve is green.
    pub fn fits(&self, intersection: &Intersection) -> bool {
        let count = intersection.stages().len();
        let green = match self.phase {
            Phase::Green { stage, .. } if stage < count => intersection.movements_of(stage),
            Phase::Clearing { from, to, until } if from < count && to < count => {
                let longest = intersection.clearance(from) + CLEARANCE_MARGIN;
                if until > self.at + longest + Deciseconds::new(1) {
                    return false;
                }
                let ends = intersection.movements_of(from).minus(intersection.movements_of(to));
                intersection.movements_of(from).minus(ends)
            }
            _ => return false,
        };
        let must_be_green = matches!(self.phase, Phase::Green { .. });
        self.red_since.len() == intersection.movements().len()
            && self.red_since.iter().enumerate().all(|(movement, red)| match red {
                None => green.contains(movement),
                Some(_) => !must_be_green || !green.contains(movement),
            })
    }

    /// The state at a later instant if the plan is followed to it. Past its last green the last stage stays green.
    pub fn follow(&mut self, intersection: &Intersection, stages: &[PlannedStage], to: Timestamp) {
        for next in stages {
            let starts = next.start;
            match self.phase {
                Phase::Clearing { to: stage, until, .. } if until <= to => {
                    self.at = until;
                    self.phase = Phase::Green { stage, since: until };
                    self.settle(intersection, stage, until);
                }
                _ => {}
            }
            let Phase::Green { stage, since } = self.phase else { break };
            if next.stage == stage || starts <= since {
                continue;
            }
            let ended = starts - intersection.clearance_between(stage, next.stage);
            if to < ended {
                break;
            }
            self.at = ended;
            self.phase = Phase::Clearing { from: stage, to: next.stage, until: starts };
            self.settle(intersection, stage, ended);
            if to < starts {
                break;
            }
            self.at = starts;
            self.phase = Phase::Green { stage: next.stage, since: starts };
            self.settle(intersection, next.stage, starts);
        }
        if let Phase::Clearing { to: stage, until, .. } = self.phase
            && until <= to
        {
            self.phase = Phase::Green { stage, since: until };
            self.settle(intersection, stage, until);
        }
        self.at = to;
    }

    /// When the green now shown may end at the earliest: not before its minimum, not before now.
    pub fn earliest_end(&self, intersection: &Intersection) -> Timestamp {
        let (stage, since) = self.phase.reached();
        let green_min = intersection.stages().get(stage).map_or(Deciseconds::ZERO, |s| s.green_min);
        (since + green_min).max(self.at)
    }
}

fn set(red_since: &mut [Option<Timestamp>], movement: usize, value: Option<Timestamp>) {
    if let Some(slot) = red_since.get_mut(movement) {
        *slot = value;
    }
}

/// Notes when a movement turned red, unless it was red already: the longer wait counts.
fn turn_red(red_since: &mut [Option<Timestamp>], movement: usize, at: Timestamp) {
    if let Some(slot) = red_since.get_mut(movement) {
        slot.get_or_insert(at);
    }
}
