//! How long plans take to reach the controller, learnt from when it makes the changes that they ask for.
//!
//! A plan that asks for a change at once shows it: the change comes as late as the plan did. The planner then wants nothing earlier,
//! unless a limit does, and so knows what will be shown until its plan is there. The proof of a plan does not ask for it.

use serde::{Deserialize, Serialize};
use shared::units::{Deciseconds, Timestamp};

use crate::control::PLAN_LATENCY;
use crate::plan::PlannedStage;
use crate::signal::Phase;

/// A controller that looks at its plan once a second is on time within this.
const ON_TIME: Deciseconds = Deciseconds::from_secs(1);
/// Who changes more than so much after a plan wanted it, or before, does not follow that plan.
pub(crate) const LATE: Deciseconds = Deciseconds::from_secs(4);
/// What each change that is made as early as was thought possible takes off: after some of them an earlier one is tried.
const STEP: Deciseconds = Deciseconds::new(1);

/// The first change that a plan asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Time from the readings of the first plan that asked for it to the end of the running green, ds.
    pub(crate) due_in_ds: u16,
    /// When the green of the next stage begins.
    pub(crate) start: Timestamp,
    /// Its number.
    pub(crate) stage: usize,
}

impl Asked {
    /// Of a plan made at an instant, on a report of the controller or without one. What the plan before asked for already, the controller
    /// may know from that one.
    pub(crate) fn by(plan: &[PlannedStage], at: Timestamp, reported: bool, before: Option<Self>) -> Option<Self> {
        let running = plan.first()?;
        // Whether it was done in time the next report will tell.
        if let Some(before) = before.filter(|before| !reported && before.stage == running.stage) {
            return Some(before);
        }
        let next = plan.get(1)?;
        let due_in_ds = u16::try_from(running.end().since(at).tenths()).unwrap_or(u16::MAX);
        let asked = Self { due_in_ds, start: next.start, stage: next.stage };
        // What is about to be done is kept by this plan, if need be a little later.
        let kept = |before: &Self| before.start < asked.start && before.start < at + next.start.since(running.end()) + PLAN_LATENCY;
        let same = |before: &Self| before.stage == asked.stage && (before.start == asked.start || kept(before));
        before.filter(same).or(Some(asked))
    }
}

/// Why changes come later than they are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Of plans, ds.
    plan_ds: u8,
    /// Of the controller, ds: it is as late if it knew of the change in time.
    own_ds: u8,
}

impl Latency {
    /// How long plans take to reach the controller.
    pub(crate) fn of_plans(self) -> Deciseconds {
        Deciseconds::new(u32::from(self.plan_ds))
    }

    /// What is known once a controller shows this.
    #[must_use]
    pub(crate) fn learn(self, asked: Option<Asked>, shown: Phase) -> Self {
        let (stage, start) = shown.reached();
        let Some(asked) = asked.filter(|asked| asked.stage == stage && asked.start.since(start) < ON_TIME) else { return self };
        let stored = |time: Deciseconds| u8::try_from(time.tenths()).unwrap_or(u8::MAX);
        let (due_in, late) = (Deciseconds::new(u32::from(asked.due_in_ds)), start.since(asked.start));
        let own_ds = if due_in >= PLAN_LATENCY && late <= PLAN_LATENCY { stored(late) } else { self.own_ds };
        let late = late.saturating_sub(Deciseconds::new(u32::from(own_ds)));
        let known = self.of_plans();
        let plan = if late >= ON_TIME {
            // Later than any plan comes, the controller did something else.
            if due_in + late <= LATE { (due_in + late).min(PLAN_LATENCY) } else { known }
        } else if due_in < known + ON_TIME {
            known.min(due_in).saturating_sub(STEP)
        } else {
            known
        };
        Self { plan_ds: stored(plan), own_ds }
    }

    /// Whether a change was made, or has still not been made at an instant at which this is shown, later than any plan comes.
    pub(crate) fn is_overdue(self, asked: Asked, shown: Phase, at: Timestamp) -> bool {
        let (stage, start) = shown.reached();
        let start = if stage == asked.stage { start } else { at };
        start.since(asked.start) > LATE + Deciseconds::new(u32::from(self.own_ds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tenths: i64) -> Timestamp {
        Timestamp::from_millis(1_795_334_400_000 + 100 * tenths)
    }

    /// Stage 0 ends so many tenths of a second after the epoch, stage 1 begins four seconds later.
    fn plan(end: u32) -> [PlannedStage; 2] {
        let end_at = at(i64::from(end));
        let running = PlannedStage { stage: 0, start: at(-300), green: end_at.since(at(-300)) };
        [running, PlannedStage { stage: 1, start: at(i64::from(end) + 40), green: Deciseconds::from_secs(10) }]
    }

    fn shown(end: u32, after: i64) -> Phase {
        Phase::Green { stage: 1, since: at(i64::from(end) + 40 + after) }
    }

    fn learnt(plan_ds: u8, end: u32, after: i64) -> u8 {
        let known = Latency { plan_ds, own_ds: 0 };
        known.learn(Asked::by(&plan(end), at(0), true, None), shown(end, after)).plan_ds
    }

    #[test]
    fn a_late_change_shows_when_its_plan_came() {
        assert_eq!(learnt(0, 0, 20), 20);
        assert_eq!(learnt(20, 20, 10), 30);
        assert_eq!(learnt(30, 0, 10), 10);
        // Whoever looks once a second may be half of one behind the slowest plan.
        assert_eq!(learnt(0, 0, 35), 30);
        // Those plans were there in time, or came later than any plan does.
        for (end, after) in [(40, 10), (60, 20), (10, 31), (0, 50)] {
            assert_eq!(learnt(15, end, after), 15, "{end} {after}");
        }
    }

    #[test]
    fn a_change_in_time_shows_that_its_plan_came_before() {
        assert_eq!(learnt(20, 20, 0), 19);
        assert_eq!(learnt(20, 5, 0), 4);
        assert_eq!(learnt(0, 0, 0), 0);
        // A plan that had more time than was thought necessary shows nothing.
        assert_eq!(learnt(20, 30, 0), 20);
        // Who changes before he was asked to was not asked by this plan.
        assert_eq!(learnt(20, 20, -20), 20);
    }

    #[test]
    fn what_an_earlier_plan_asked_for_already_was_known_from_that_one() {
        let first = Asked::by(&plan(60), at(0), true, None);
        assert_eq!(Asked::by(&plan(60), at(50), true, first), first);
        assert_eq!(Asked::by(&plan(90), at(20), true, first).map(|asked| asked.due_in_ds), Some(70));
        assert_eq!(Asked::by(&plan(80)[..1], at(50), true, first), None);
        // It is still to be done at the next steps.
        assert_eq!(Asked::by(&plan(61), at(40), true, first), first);
        assert_eq!(Asked::by(&plan(70), at(70), true, first), first);
    }

    #[test]
    fn what_was_to_be_done_by_now_is_kept_until_the_controller_reports() {
        let first = Asked::by(&plan(0), at(0), true, None);
        let [_, next] = plan(0);
        let after = [next, PlannedStage { stage: 2, start: next.end() + Deciseconds::from_secs(4), green: Deciseconds::from_secs(10) }];
        for plan in [&after[..], &after[..1]] {
            assert_eq!(Asked::by(plan, at(50), false, first), first);
        }
        assert_eq!(Asked::by(&after, at(50), true, first).map(|asked| asked.stage), Some(2));
    }

    #[test]
    fn a_controller_that_is_late_with_what_it_knew_in_time_is_late_by_itself() {
        let known = Latency::default().learn(Asked::by(&plan(40), at(0), true, None), shown(40, 15));
        assert_eq!(known, Latency { plan_ds: 0, own_ds: 15 });
        let later = |end: u32, after: i64| known.learn(Asked::by(&plan(end), at(0), true, None), shown(end, after));
        assert_eq!(later(0, 15), known);
        assert_eq!(later(0, 35), Latency { plan_ds: 20, own_ds: 15 });
        assert_eq!(later(40, 0), Latency::default());
        // It was kept from it.
        assert_eq!(later(40, 31), known);
    }

    #[test]
    fn a_controller_that_is_late_by_itself_has_that_much_longer_for_a_change() {
        let asked = Asked::by(&plan(0), at(0), true, None).unwrap();
        let overdue = |own_ds: u8, after: i64| Latency { plan_ds: 0, own_ds }.is_overdue(asked, shown(0, after), at(400));
        assert!(!overdue(0, 40) && overdue(0, 41));
        assert!(!overdue(15, 55) && overdue(15, 56));
    }

    #[test]
    fn another_stage_shows_nothing() {
        let shown = Phase::Clearing { from: 0, to: 2, until: at(60) };
        let known = Latency { plan_ds: 7, own_ds: 0 };
        assert_eq!(known.learn(Asked::by(&plan(0), at(0), true, None), shown), known);
    }
}
