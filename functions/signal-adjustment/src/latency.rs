//! How long plans take to reach the controller, learnt from when it makes the changes that they ask for.
//!
//! A plan that asks for a change at once shows it: the change comes as late as the plan did. The planner then asks for nothing
//! earlier, and so knows what will be shown until its plan is there. Nothing of the envelope rests on it.

use shared::units::{Deciseconds, Timestamp};

use crate::control::PLAN_LATENCY;
use crate::plan::PlannedStage;
use crate::signal::Phase;

/// A controller that looks at its plan once a second is on time within this.
const ON_TIME: Deciseconds = Deciseconds::from_secs(1);
/// What each change that is made as early as was thought possible takes off: after some of them an earlier one is tried.
const STEP: Deciseconds = Deciseconds::new(1);

/// The first change that a plan asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// From the readings of the plan that asked for it first to the end of the green before, ds.
    pub(crate) due_in_ds: u16,
    /// When the green of the next stage begins.
    pub(crate) start: Timestamp,
    /// Its number.
    pub(crate) stage: usize,
}

impl Asked {
    /// Of a plan made at an instant. What the plan before asked for already, the controller may know from that one.
    pub(crate) fn by(plan: &[PlannedStage], at: Timestamp, before: Option<Self>) -> Option<Self> {
        let [running, next, ..] = plan else { return None };
        let due_in_ds = u16::try_from(running.end().since(at).tenths()).unwrap_or(u16::MAX);
        let asked = Self { due_in_ds, start: next.start, stage: next.stage };
        let same = |before: &Self| (before.stage, before.start) == (asked.stage, asked.start);
        before.filter(same).or(Some(asked))
    }
}

/// What is known of the latency once a controller shows this.
pub(crate) fn learn(latency: Deciseconds, asked: Option<Asked>, shown: Phase) -> Deciseconds {
    let (stage, start) = match shown {
        Phase::Green { stage, since } => (stage, since),
        Phase::Clearing { to, until, .. } => (to, until),
    };
    let Some(asked) = asked.filter(|asked| asked.stage == stage) else { return latency };
    let due_in = Deciseconds::new(u32::from(asked.due_in_ds));
    let (late, early) = (start.since(asked.start), asked.start.since(start));
    if late >= ON_TIME {
        // Later than any plan comes, the controller did something else.
        let by_plan = due_in < PLAN_LATENCY && due_in + late <= PLAN_LATENCY + ON_TIME;
        return if by_plan { (due_in + late).min(PLAN_LATENCY) } else { latency };
    }
    let tells = early < ON_TIME && due_in < latency + ON_TIME;
    if tells { latency.min(due_in).saturating_sub(STEP) } else { latency }
}
