//! Builds a plan stage by stage, within the envelope: whatever is wished for, what comes out can be proved.

use shared::intersection::{CONTROLLER_CYCLE, Intersection};
use shared::units::{Deciseconds, Timestamp};

use crate::plan::{PlannedStage, RedLedger, SafetyViolation, SignalPlan};
use crate::signal::{Phase, SignalState};

/// Longest time from a reading to the moment when the controller follows the plan that rests on it.
///
/// Two rules follow, so that a plan never asks the controller to take back what the plan before it has begun: a change that
/// the plan in force makes within this time is kept, and a change is never planned for the time in which the next plan may
/// be there or on its way, by what is known of its latency. With both, a plan may arrive this late without harm.
pub(crate) const PLAN_LATENCY: Deciseconds = Deciseconds::from_secs(3);

/// What the builder is asked to do with the stage it has reached.
pub(super) struct Wish {
    /// When its green should end.
    pub(super) end: Timestamp,
    /// Which stage should follow.
    pub(super) next: usize,
}

/// A plan in the making.
pub(super) struct Schedule<'i> {
    intersection: &'i Intersection,
    state: &'i SignalState,
    /// Longest red less a reserve, so that there is a choice of when to change.
    ledger: RedLedger,
    /// Longest red to the last tenth.
    last: RedLedger,
    /// How long plans take to reach the controller, rounded up to seconds.
    latency: Deciseconds,
    stages: Vec<PlannedStage>,
    stage: usize,
    start: Timestamp,
}

impl<'i> Schedule<'i> {
    /// Begins with the running stage, or the one that is being cleared to.
    pub(super) fn begin(intersection: &'i Intersection, state: &'i SignalState, latency: Deciseconds) -> Self {
        let (stage, start) = state.phase.reached();
        let red_max = intersection.red_max();
        // The next plan, its latency and a clearance; less where the longest red leaves no room for that.
        let wanted = intersection.control().step + PLAN_LATENCY + intersection.clearance(stage);
        let room = red_max.saturating_sub(intersection.cover_cycle());
        let reserve = wanted.min(Deciseconds::new(room.tenths() / 2));
        let mut ledger = RedLedger::of(intersection, state, red_max.saturating_sub(reserve));
        let mut last = RedLedger::of(intersection, state, red_max);
        for ledger in [&mut ledger, &mut last] {
            // Deadlines of the running stage are never before its own start.
            let _ = ledger.serve(intersection, stage, start);
        }
        // The planner counts in whole seconds.
        let latency = Deciseconds::from_secs(latency.tenths().div_ceil(10));
        Self { intersection, state, ledger, last, latency, stages: Vec::new(), stage, start }
    }

    /// The stage reached.
    pub(super) const fn stage(&self) -> usize {
        self.stage
    }

    /// When the green of the stage reached begins.
    pub(super) const fn start(&self) -> Timestamp {
        self.start
    }

    /// How long the plan takes to reach the controller, rounded up to seconds.
    pub(super) const fn latency(&self) -> Deciseconds {
        self.latency
    }

    /// When the stage reached may end at the earliest.
    ///
    /// If nobody saw it begin, the plan that began it may have been late: its minimum must be over even so, where the limits leave room.
    pub(super) fn earliest_end(&self) -> Timestamp {
        let earliest = self.minimum_end();
        if self.stages.is_empty() && !self.state.is_seen(self.intersection) {
            (self.start + self.green_min() + PLAN_LATENCY).min(self.green_max_end()).min(self.latest_by(&self.last)).max(earliest)
        } else {
            earliest
        }
    }

    fn green_min(&self) -> Deciseconds {
        self.intersection.stages().get(self.stage).map_or(Deciseconds::ZERO, |s| s.green_min)
    }

    /// When the minimum of the stage reached is over, if it began as assumed; not before now.
    fn minimum_end(&self) -> Timestamp {
        (self.start + self.green_min()).max(self.state.at)
    }

    /// When the stage reached must end because of its maximum green.
    pub(super) fn green_max_end(&self) -> Timestamp {
        let green_max = self.intersection.stages().get(self.stage).map_or(Deciseconds::ZERO, |s| s.green_max);
        (self.start + green_max).max(self.minimum_end())
    }

    /// When the stage reached should end so that everybody else is served in time.
    pub(super) fn red_max_end(&self) -> Timestamp {
        self.latest_by(&self.ledger)
    }

    fn latest_by(&self, ledger: &RedLedger) -> Timestamp {
        let earliest = self.minimum_end();
        earliest + ledger.slack(self.intersection, self.stage, earliest).unwrap_or(Deciseconds::ZERO)
    }

    /// Whether the stage may follow if the one reached ends then.
    pub(super) fn may_follow(&self, end: Timestamp, next: usize) -> bool {
        self.may_follow_by(&self.ledger, end, next)
    }

    fn may_follow_by(&self, ledger: &RedLedger, end: Timestamp, next: usize) -> bool {
        let Some(stage) = self.intersection.stages().get(next) else { return false };
        let mut ahead = ledger.clone();
        ahead.leave(self.intersection, self.stage, next, end);
        let start = end + self.intersection.clearance_between(self.stage, next);
        next != self.stage
            && ahead.serve(self.intersection, next, start).is_ok()
            && ahead.slack(self.intersection, next, start + stage.green_min).is_ok()
    }

    /// The stage with the most urgent movement.
    pub(super) fn most_urgent(&self, end: Timestamp) -> Option<usize> {
        self.ledger.most_urgent(self.intersection, self.stage, end)
    }

    /// Ends the stage reached as near to the wish as the limits allow, and goes to the next one.
    pub(super) fn follow(&mut self, wish: &Wish) {
        let (mut end, mut next) = (self.bounded(wish), wish.next);
        if !self.may_follow(end, next) {
            next = self.most_urgent(end).unwrap_or(self.any_other());
            // That one may begin without a clearance where the other has one.
            let lead = self.lead(next);
            if lead > Deciseconds::ZERO && end - lead < self.next_plan() + self.latency {
                end = self.bounded(&Wish { end: wish.end, next });
            }
        }
        // Without any other stage to go to, this one stays.
        if next != self.stage {
            self.change(end, next);
        }
    }

    /// A stage to go to when nobody waits elsewhere but the maximum green is over.
    fn any_other(&self) -> usize {
        (self.stage + 1) % self.intersection.stages().len()
    }

    fn bounded(&self, wish: &Wish) -> Timestamp {
        let latest = self.green_max_end().min(self.latest_by(&self.last));
        let mut earliest = self.earliest_end();
        if !self.stages.is_empty() {
            // If this plan arrives late, the stage begins late: its minimum must be over even so.
            earliest = (earliest + PLAN_LATENCY).min(latest).max(earliest);
        }
        let end = wish.end.min(self.green_max_end()).min(self.red_max_end()).max(earliest);
        let (lead, next_plan) = (self.lead(wish.next), self.next_plan());
        let from = if lead == Deciseconds::ZERO { next_plan + self.latency - CONTROLLER_CYCLE } else { self.state.at };
        let to = next_plan + PLAN_LATENCY + lead;
        // What is wanted as soon as this plan is there is not put off. Nothing else comes while the next plan may be on its way: later if
        // the limits allow, else before it can be there.
        if end < self.state.at + self.latency + CONTROLLER_CYCLE {
            if lead > Deciseconds::ZERO { from.max(earliest) } else { end }
        } else if end <= from || end >= to {
            end
        } else if latest >= to {
            to
        } else {
            from.max(earliest)
        }
    }

    /// A controller sets out for a stage one clearance before its start. Where nothing is cleared, that is so long before the end of this
    /// green, and it arrives at once: such a change is made now or left to a later plan.
    fn lead(&self, next: usize) -> Deciseconds {
        self.intersection.clearance(self.stage).saturating_sub(self.intersection.clearance_between(self.stage, next))
    }

    /// When the next plan is made.
    fn next_plan(&self) -> Timestamp {
        self.state.at + self.intersection.control().step
    }

    fn change(&mut self, end: Timestamp, next: usize) {
        self.stages.push(PlannedStage { stage: self.stage, start: self.start, green: end.since(self.start) });
        let start = end + self.intersection.clearance_between(self.stage, next);
        for ledger in [&mut self.ledger, &mut self.last] {
            ledger.leave(self.intersection, self.stage, next, end);
            // Lateness was excluded where there was a choice; `SignalPlan::new` has the last word.
            let _ = ledger.serve(self.intersection, next, start);
        }
        (self.stage, self.start) = (next, start);
    }

    /// Keeps a change that the plan in force makes before this plan can be there. True if there was one.
    pub(super) fn keep_imminent_change(&mut self, in_force: &[PlannedStage]) -> bool {
        let Phase::Green { stage, .. } = self.state.phase else { return false };
        let running = in_force.iter().rposition(|entry| entry.stage == stage && entry.start <= self.state.at);
        // A plan that does not know the stage shown was made when the change from it was taken to be under way.
        let next = in_force.get(running.map_or(0, |running| running + 1));
        let Some(next) = next.filter(|next| next.stage != stage) else { return false };
        // What was due a moment ago may have begun without being reported yet.
        let due = next.start - self.intersection.clearance_between(stage, next.stage);
        let imminent = due + PLAN_LATENCY > self.state.at && due < self.state.at + PLAN_LATENCY;
        let latest = self.green_max_end().min(self.latest_by(&self.last));
        let end = due.min(latest).max(self.minimum_end());
        if imminent && self.may_follow_by(&self.last, end, next.stage) {
            self.change(end, next.stage);
            return true;
        }
        false
    }

    /// Goes on with wishes until the plan covers its time to live, then proves it.
    pub(super) fn finish(mut self, mut wish: impl FnMut(&Self) -> Wish) -> Result<SignalPlan, SafetyViolation> {
        let valid_until = self.state.at + self.intersection.control().plan_ttl;
        let only_stage = self.intersection.stages().len() == 1;
        while self.stages.len() < SignalPlan::STAGES_MAX {
            let wanted = wish(&self);
            let end = if only_stage { wanted.end.max(valid_until).max(self.earliest_end()) } else { self.bounded(&wanted) };
            if end >= valid_until {
                self.stages.push(PlannedStage { stage: self.stage, start: self.start, green: end.since(self.start) });
                break;
            }
            let before = self.stages.len();
            self.follow(&wanted);
            if self.stages.len() == before {
                break;
            }
        }
        SignalPlan::new(self.intersection, self.state, self.stages)
    }
}
