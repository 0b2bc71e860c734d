//! Decision records: the inputs of a decision in words, and back, so that it can be decided again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::ids::{DetectorId, LaneId, MovementId, StageId};
use shared::intersection::{Intersection, Lane};
use shared::plan::{DecisionRecord, PlanStage, PublishedPlan};
use shared::reading::SignalMode;
use shared::units::{Deciseconds, Timestamp};

use crate::control::{Decision, Inputs};
use crate::demand::Queue;
use crate::estimate::{Arrivals, DetectorState, Discharge, Estimate, Seen, served};
use crate::plan::PlannedStage;
use crate::signal::{Phase, SignalState};

#[derive(Serialize, Deserialize)]
struct InputsInWords {
    signal: SignalInWords,
    detectors: BTreeMap<DetectorId, DetectorInWords>,
    /// Learnt discharge of each lane in each stage, where it is not what the prior says.
    #[serde(default)]
    discharge: BTreeMap<LaneId, BTreeMap<StageId, f64>>,
    /// Vehicles that wait on each lane, seen or reckoned, where there are any. Records from before have only what detectors saw.
    #[serde(default)]
    queues: Option<BTreeMap<LaneId, f64>>,
    in_force: Vec<PlanStage>,
    /// How long the plan takes to reach the controller; records from before do not say.
    #[serde(default)]
    plan_latency_s: Deciseconds,
}

#[derive(Serialize, Deserialize)]
struct SignalInWords {
    at: Timestamp,
    stage: StageId,
    /// Beginning of the green; while clearing, of the next green.
    green_from: Timestamp,
    clearing_from: Option<StageId>,
    mode: ModeInWords,
    mode_at: Timestamp,
    red_since: BTreeMap<MovementId, Timestamp>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, that the device or maintenance tells")]
#[derive(Serialize, Deserialize)]
struct DetectorInWords {
    last: Option<Timestamp>,
    period_s: Deciseconds,
    vehicles_waiting: Option<f64>,
    /// Of a loop: what it counted in its period, and for which share of it somebody was over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vehicles_passed: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    occupancy: Option<f64>,
    /// Moving vehicles by the second in which they reach the stop line; records from before have none.
    #[serde(default)]
    vehicles_arriving: Vec<f64>,
    /// Somebody stands at the stop line; records from before do not say.
    #[serde(default)]
    head_stands: bool,
    /// None before anything was counted.
    arrivals_per_s: Option<f64>,
    fault_reported: bool,
    implausible: bool,
    // Records from before have none.
    #[serde(default)]
    in_alarm: bool,
}

impl From<DetectorState> for DetectorInWords {
    fn from(state: DetectorState) -> Self {
        Self {
            last: state.last.map(Timestamp::from_millis),
            period_s: Deciseconds::new(state.period_ds),
            vehicles_waiting: state.waiting(),
            vehicles_passed: state.seen.passed(),
            occupancy: state.seen.occupancy(),
            vehicles_arriving: trimmed(state.arrivals.vehicles().collect()),
            head_stands: state.head_stands,
            arrivals_per_s: state.rate(),
            fault_reported: state.fault,
            implausible: state.implausible,
            in_alarm: state.in_alarm,
        }
    }
}

impl From<&DetectorInWords> for DetectorState {
    fn from(words: &DetectorInWords) -> Self {
        let seen = words.vehicles_waiting.map_or_else(|| Seen::by_loop(words.vehicles_passed, words.occupancy, 1.0), Seen::waiting);
        let mut state = Self {
            last: words.last.map(Timestamp::as_millis),
            period_ds: words.period_s.tenths(),
            fault: words.fault_reported,
            implausible: words.implausible,
            in_alarm: words.in_alarm,
            head_stands: words.head_stands,
            arrivals: Arrivals::from_vehicles(std::array::from_fn(|s| words.vehicles_arriving.get(s).copied().unwrap_or_default())),
            seen,
            rate_65536th: None,
        };
        state.set_rate(words.arrivals_per_s);
        state
    }
}

fn discharge_in_words(intersection: &Intersection, estimate: &Estimate) -> BTreeMap<LaneId, BTreeMap<StageId, f64>> {
    let mut words: BTreeMap<LaneId, BTreeMap<StageId, f64>> = BTreeMap::new();
    for ((lane, stage), discharge) in served(intersection).zip(estimate.discharge()) {
        if let (Some(lane), Some(stage)) = (intersection.lanes().get(lane), intersection.stages().get(stage))
            && *discharge != Discharge::PRIOR
        {
            words.entry(lane.id.clone()).or_default().insert(stage.id.clone(), discharge.factor());
        }
    }
    words
}

/// Without the empty seconds at its end.
fn trimmed(mut vehicles: Vec<f64>) -> Vec<f64> {
    vehicles.truncate(vehicles.iter().rposition(|&n| n > 0.0).map_or(0, |last| last + 1));
    vehicles
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeInWords {
    Adaptive,
    TimeOfDay,
    Flash,
    Preempted,
    Manual,
}

/// A record that cannot be decided again with this configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableRecord {
    /// It was decided under another configuration.
    #[error("the decision was made under configuration {0}, not under the one given")]
    OtherConfiguration(String),
    /// Its inputs are not complete.
    #[error("the inputs of the record cannot be read: {0}")]
    Inputs(String),
}

/// The record of a decision.
pub fn record(
    intersection: &Intersection,
    inputs: &Inputs,
    decision: &Decision,
    previous: Option<&PublishedPlan>,
    next: &PublishedPlan,
) -> DecisionRecord {
    DecisionRecord {
        intersection_id: intersection.id().clone(),
        as_of: next.as_of,
        revision: next.revision,
        configuration: intersection.etag(),
        reason: next.reason.clone(),
        // Ids, numbers and times always have a JSON form.
        inputs: serde_json::to_value(in_words(intersection, inputs)).unwrap_or(Value::Null),
        candidates: decision.candidates.clone(),
        limits: decision.limits.iter().map(|limit| limit.as_str().to_owned()).collect(),
        distrusted: decision.distrusted.clone(),
        previous: previous.cloned(),
        next: next.clone(),
    }
}

/// Decides again what a record tells of.
///
/// # Errors
/// [`UnusableRecord`] if it belongs to another configuration or its inputs are not complete.
pub fn decide_again(intersection: &Intersection, record: &DecisionRecord) -> Result<Decision, UnusableRecord> {
    if record.configuration != intersection.etag() {
        return Err(UnusableRecord::OtherConfiguration(record.configuration.to_string()));
    }
    let words: InputsInWords = serde_json::from_value(record.inputs.clone()).map_err(|e| UnusableRecord::Inputs(e.to_string()))?;
    let inputs = from_words(intersection, &words).ok_or_else(|| UnusableRecord::Inputs("an id is not configured".into()))?;
    Ok(inputs.decide(intersection))
}

fn in_words(intersection: &Intersection, inputs: &Inputs) -> InputsInWords {
    let stage = |number: usize| intersection.stages().get(number).map(|s| s.id.clone());
    let (shown, green_from, clearing_from) = match inputs.state.phase {
        Phase::Green { stage: number, since } => (stage(number), since, None),
        Phase::Clearing { from, to, until } => (stage(to), until, stage(from)),
    };
    let first = || intersection.stages().first().map(|s| s.id.clone());
    let red = intersection.movements().iter().zip(&inputs.state.red_since);
    let in_force =
        inputs.in_force.iter().filter_map(|entry| Some(PlanStage { stage: stage(entry.stage)?, start: entry.start, green_s: entry.green }));
    let lanes = intersection.lanes().iter().zip(inputs.estimate.waiting());
    InputsInWords {
        signal: SignalInWords {
            at: inputs.state.at,
            // A state always names a stage of its intersection, and every intersection has one.
            stage: shown.or_else(first).unwrap_or_else(|| unreachable!("an intersection has a stage")),
            green_from,
            clearing_from,
            mode: match inputs.state.mode {
                SignalMode::Adaptive => ModeInWords::Adaptive,
                SignalMode::TimeOfDay => ModeInWords::TimeOfDay,
                SignalMode::Flash => ModeInWords::Flash,
                SignalMode::Preempted => ModeInWords::Preempted,
                SignalMode::Manual => ModeInWords::Manual,
            },
            mode_at: inputs.state.mode_at,
            red_since: red.filter_map(|(movement, since)| Some((movement.id.clone(), (*since)?))).collect(),
        },
        detectors: intersection.detectors().cloned().zip(inputs.estimate.detectors().iter().map(|&d| d.into())).collect(),
        discharge: discharge_in_words(intersection, &inputs.estimate),
        queues: Some(lanes.filter(|(_, queue)| *queue > 0.0).map(|(lane, queue)| (lane.id.clone(), queue)).collect()),
        in_force: in_force.collect(),
        plan_latency_s: inputs.latency,
    }
}

fn from_words(intersection: &Intersection, words: &InputsInWords) -> Option<Inputs> {
    let number = |id: &StageId| intersection.stages().iter().position(|stage| stage.id == *id);
    let signal = &words.signal;
    let stage = number(&signal.stage)?;
    let phase = match &signal.clearing_from {
        Some(from) => Phase::Clearing { from: number(from)?, to: stage, until: signal.green_from },
        None => Phase::Green { stage, since: signal.green_from },
    };
    let mode = match signal.mode {
        ModeInWords::Adaptive => SignalMode::Adaptive,
        ModeInWords::TimeOfDay => SignalMode::TimeOfDay,
        ModeInWords::Flash => SignalMode::Flash,
        ModeInWords::Preempted => SignalMode::Preempted,
        ModeInWords::Manual => SignalMode::Manual,
    };
    let red_since = intersection.movements().iter().map(|movement| signal.red_since.get(&movement.id).copied()).collect();
    let detectors = intersection.detectors().map(|id| words.detectors.get(id).map(DetectorState::from)).collect::<Option<Vec<_>>>()?;
    let discharge = served(intersection).map(|(lane, stage)| {
        let of_lane = intersection.lanes().get(lane).and_then(|lane| words.discharge.get(&lane.id));
        let factor = intersection.stages().get(stage).and_then(|stage| of_lane?.get(&stage.id));
        factor.map_or(Discharge::PRIOR, |&factor| Discharge::of(factor))
    });
    let in_force =
        words.in_force.iter().map(|entry| Some(PlannedStage { stage: number(&entry.stage)?, start: entry.start, green: entry.green_s }));
    let mut estimate = Estimate::from_parts(detectors, discharge.collect(), Vec::new());
    let lanes = intersection.lanes().iter().zip(estimate.by_lane(intersection));
    let queue = |(lane, detector): (&Lane, Option<DetectorState>)| match &words.queues {
        Some(queues) => queues.get(&lane.id).copied(),
        None => detector.and_then(|detector| detector.waiting()),
    };
    estimate.queues = lanes.map(|lane| Queue::of(queue(lane).unwrap_or_default())).collect();
    Some(Inputs {
        estimate,
        state: SignalState { at: signal.at, phase, mode, mode_at: signal.mode_at, red_since },
        in_force: in_force.collect::<Option<Vec<_>>>()?,
        latency: words.plan_latency_s,
    })
}
