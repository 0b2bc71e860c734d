//! Decides: from what is known of a junction to its next plan. Pure; the same inputs give the same plan, bit for bit.
//!
//! `model` is the junction as a queue per lane, `search` costs courses of stages on it, `planner` makes the cheapest one a plan,
//! and `schedule` keeps whatever is wished for within the limits.

mod model;
mod planner;
mod schedule;
mod search;
mod time_of_day;

use serde::{Deserialize, Serialize};
use shared::intersection::{ControlMode, Intersection};
use shared::plan::{Candidate, DistrustedDetector, PlanSource, Reason};
use shared::reading::SignalMode;
use shared::units::Deciseconds;

pub(crate) use self::model::{flow_into, open_exits};
pub(crate) use self::schedule::PLAN_LATENCY;
use crate::estimate::{Estimate, longest_silence};
use crate::plan::{PlannedStage, SafetyViolation, SignalPlan};
use crate::signal::SignalState;

/// What a decision gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The plan, or why none could be made: then the last one runs out and the controller helps itself.
    pub plan: Result<SignalPlan, SafetyViolation>,
    /// Who decided.
    pub source: PlanSource,
    /// Why.
    pub reason: Reason,
    /// Stages compared.
    pub candidates: Vec<Candidate>,
    /// Limits that bound it.
    pub limits: Vec<Limit>,
    /// Detectors that had no say.
    pub distrusted: Vec<DistrustedDetector>,
}

/// A limit that bound a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The running stage has not been green for its minimum.
    GreenMin,
    /// The running stage has been green for its maximum.
    GreenMax,
    /// A movement has to be served now, or it would be red for too long.
    RedMax,
    /// The signal is clearing to a stage that cannot be taken back.
    Clearing,
}

impl Limit {
    /// The word for records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GreenMin => "green_min",
            Self::GreenMax => "green_max",
            Self::RedMax => "red_max",
            Self::Clearing => "clearing",
        }
    }
}

/// Everything that a decision rests on, besides the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// What the detectors say.
    pub estimate: Estimate,
    /// What the signal shows.
    pub state: SignalState,
    /// What the controller follows until the new plan arrives.
    pub in_force: Vec<PlannedStage>,
    /// How long that takes.
    pub latency: Deciseconds,
}

impl Inputs {
    /// Decides the plan that begins at `state.at`; the same inputs give the same decision.
    pub fn decide(&self, intersection: &Intersection) -> Decision {
        let distrusted = distrusted(intersection, &self.estimate, &self.state);
        let control = intersection.control();
        let fixed = |code: &str, text: String| {
            let plan = time_of_day::plan(intersection, &self.state, &self.in_force);
            let reason = Reason { code: code.into(), text };
            Decision { plan, source: PlanSource::TimeOfDay, reason, candidates: vec![], limits: vec![], distrusted: distrusted.clone() }
        };
        if control.mode == ControlMode::TimeOfDay {
            return fixed("time_of_day_mode", "The intersection is configured to run its time-of-day plan.".into());
        }
        match self.state.mode {
            SignalMode::Flash => return fixed("controller_flash", "The controller flashes.".into()),
            SignalMode::Preempted => return fixed("controller_preempted", "The controller is preempted.".into()),
            SignalMode::Manual => return fixed("controller_manual", "The signal is run by hand.".into()),
            SignalMode::Adaptive | SignalMode::TimeOfDay => {}
        }
        if let Some(stage) = blind_stage(intersection, &self.estimate, &self.state) {
            let text = format!("Stage {stage} has no trusted detector left.");
            return fixed("no_trusted_detector", text);
        }
        let source = if control.mode == ControlMode::Shadow { PlanSource::Shadow } else { PlanSource::Adaptive };
        let choice = planner::choose(intersection, self);
        Decision { plan: choice.plan, source, reason: choice.reason, candidates: choice.candidates, limits: choice.limits, distrusted }
    }
}

fn distrusted(intersection: &Intersection, estimate: &Estimate, state: &SignalState) -> Vec<DistrustedDetector> {
    let detectors = intersection.detectors().zip(estimate.detectors());
    let longest = longest_silence(intersection);
    detectors
        .filter_map(|(id, detector)| {
            let reason = detector.distrust(state.at, longest)?.as_str().to_owned();
            Some(DistrustedDetector { detector_id: id.clone(), reason })
        })
        .collect()
}

/// The first stage that serves lanes but has no trusted detector on any of them.
fn blind_stage<'i>(intersection: &'i Intersection, estimate: &Estimate, state: &SignalState) -> Option<&'i str> {
    let lanes = estimate.by_lane(intersection);
    let blind = intersection.stages().iter().find(|stage| {
        let served = stage.movements().iter().filter_map(|m| intersection.movements().get(m)?.from_lane);
        let (mut any, mut trusted) = (false, false);
        for lane in served {
            any = true;
            trusted |= lanes.get(lane).copied().flatten().is_some_and(|d| d.is_trusted(intersection, state.at));
        }
        any && !trusted
    });
    blind.map(|stage| stage.id.as_str())
}
