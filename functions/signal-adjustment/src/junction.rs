//! The state of one junction between two steps: what was folded, what is assumed, what was decided.
//!
//! Readings come in the order of the stream. All readings of one second form a step; a decision rests on a step and on the
//! state before it, so a step that arrives in two parts is decided twice, the second time with everything, and the plan is
//! the same as if it had come in one. A reading older than the newest step is late and changes nothing.
//!
//! Signals are reckoned on the grid of a tenth of a second, as controllers do: a decision holds from the last tenth before
//! its newest reading.

use serde::{Deserialize, Serialize};
use shared::ids::DetectorId;
use shared::intersection::{ControlMode, Intersection};
use shared::plan::{PlanStage, PublishedPlan, Reason};
use shared::reading::{DetectorReading, SensorReading, SignalMode};
use shared::units::{Deciseconds, Timestamp};

use crate::control::{Decision, Inputs, PLAN_LATENCY};
use crate::demand::{Queue, START_UP};
use crate::estimate::{DetectorState, Discharge, Estimate};
use crate::latency::{Asked, LATE, Latency};
use crate::plan::PlannedStage;
use crate::signal::{Observation, Phase, SignalState, second};

/// What a reading did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It changed what is known.
    New,
    /// It was known already.
    Replayed,
    /// It is older than the newest step.
    Late,
    /// It does not bear on signals, or names something that is not configured.
    Ignored,
}

/// What is known of a junction.
#[derive(Clone, Debug, PartialEq)]
pub struct Junction {
    /// Layout of the configuration that the numbers in this state belong to.
    layout: u64,
    /// Event time of the newest reading of the newest step.
    as_of: Timestamp,
    estimate: Estimate,
    /// How long plans take to reach the controller, learnt before the newest step.
    latency: Latency,
    /// The signal before the newest step.
    before: Option<SignalState>,
    /// The plan in force before the newest step.
    in_force: InForce,
    /// What the controller reported in the newest step.
    observation: Option<Observation>,
    /// The plan decided on the newest step.
    decided: InForce,
    /// Revision of the newest plan.
    revision: u64,
}

/// A reading that bears on the signals of a junction.
enum Bearing<'r> {
    Detector(&'r DetectorReading),
    Signal(Observation),
}

impl<'r> Bearing<'r> {
    /// None for other types, detectors that are not configured, and reports that cannot be.
    fn of(intersection: &Intersection, reading: &'r SensorReading) -> Option<Self> {
        match reading {
            SensorReading::Detector(reading) => {
                intersection.detectors().any(|detector| *detector == reading.detector_id).then_some(Self::Detector(reading))
            }
            SensorReading::SignalState(reading) => Observation::of(reading, intersection).map(Self::Signal),
            _ => None,
        }
    }
}

/// Number of the stored form: what another version stored is another layout, of which only time and revision are known.
const FORMAT: u64 = 4;

fn layout_of(intersection: &Intersection) -> u64 {
    intersection.layout() ^ FORMAT
}

/// Stages of a plan and how long they hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct InForce {
    stages: Vec<PlannedStage>,
    /// The first change, with the plan that asked for it first.
    asked: Option<Asked>,
    valid_until: Timestamp,
}

impl Junction {
    /// A junction of which nothing is known yet.
    pub fn unknown(intersection: &Intersection) -> Self {
        Self {
            layout: layout_of(intersection),
            as_of: Timestamp::from_millis(i64::MIN),
            estimate: Estimate::unknown(intersection),
            latency: Latency::default(),
            before: None,
            in_force: InForce::default(),
            observation: None,
            decided: InForce::default(),
            revision: 0,
        }
    }

    /// A junction of which nothing but its last plan is known: neither time nor revision may run backwards.
    pub fn after(intersection: &Intersection, plan: &PublishedPlan) -> Self {
        Self { as_of: plan.as_of, revision: plan.revision, ..Self::unknown(intersection) }
    }

    /// The state under a configuration. If its layout changed, what belonged to the old one is forgotten; the step and the
    /// revision stay, so that neither time nor revision runs backwards.
    #[must_use]
    pub fn under(self, intersection: &Intersection) -> Self {
        if self.layout == layout_of(intersection) {
            return self;
        }
        Self { as_of: self.as_of, revision: self.revision, ..Self::unknown(intersection) }
    }

    /// Takes the say from the detectors that maintenance holds in alarm, from the next decision on.
    pub fn set_in_alarm(&mut self, intersection: &Intersection, in_alarm: &[DetectorId]) {
        self.estimate.set_in_alarm(intersection, in_alarm);
    }

    /// Event time of the newest step.
    pub const fn as_of(&self) -> Timestamp {
        self.as_of
    }

    /// Whether a reading that bears on this junction begins a new step.
    pub fn begins_step(&self, intersection: &Intersection, reading: &SensorReading) -> bool {
        second(reading.time()) > second(self.as_of) && Bearing::of(intersection, reading).is_some()
    }

    /// Folds one reading. Before the first reading of a new step, the newest one must have been decided.
    pub fn fold(&mut self, intersection: &Intersection, reading: &SensorReading) -> Folded {
        let Some(bearing) = Bearing::of(intersection, reading) else { return Folded::Ignored };
        let at = reading.time();
        if second(at) < second(self.as_of) {
            return Folded::Late;
        }
        if second(at) > second(self.as_of) {
            self.begin_step(intersection, at);
        }
        let new = match bearing {
            Bearing::Detector(reading) => {
                let green = self.green_throughout(intersection, reading);
                self.estimate.fold(intersection, reading, green)
            }
            Bearing::Signal(observation) => {
                let newer = self.observation.is_none_or(|known| observation.at > known.at);
                if newer {
                    self.observation = Some(observation);
                }
                newer
            }
        };
        if !new {
            return Folded::Replayed;
        }
        self.as_of = self.as_of.max(at);
        Folded::New
    }

    /// The stage that was green, past its start-up, during the whole period of a reading, by the signal before the newest step
    /// and the plan in force.
    fn green_throughout(&self, intersection: &Intersection, reading: &DetectorReading) -> Option<usize> {
        let before = self.before.as_ref()?;
        let Phase::Green { stage, since } = before.phase else { return None };
        let running = self.followed(intersection).iter().rev().find(|entry| entry.start <= before.at)?;
        let throughout = running.stage == stage && running.end() >= reading.time && since + START_UP + reading.period <= reading.time;
        throughout.then_some(stage)
    }

    fn begin_step(&mut self, intersection: &Intersection, at: Timestamp) {
        if self.as_of > Timestamp::from_millis(i64::MIN) {
            let state = self.signal(intersection);
            self.estimate.advance(intersection, self.before.as_ref(), &state);
            self.latency = self.latency_by(intersection, &state);
            self.before = Some(state);
        }
        self.in_force = std::mem::take(&mut self.decided);
        self.observation = None;
        self.as_of = at;
    }

    /// The instant from which a decision on the newest step holds.
    const fn now(&self) -> Timestamp {
        self.as_of.floor_to_tenth()
    }

    /// Stages that the controller follows at the newest step; none if the plan ran out or nobody follows it.
    fn followed(&self, intersection: &Intersection) -> &[PlannedStage] {
        let shadow = intersection.control().mode == ControlMode::Shadow;
        if shadow || self.as_of > self.in_force.valid_until { &[] } else { &self.in_force.stages }
    }

    /// What the signal shows at the newest step: as reported, else as the plan in force says, else as the time of day says.
    fn signal(&self, intersection: &Intersection) -> SignalState {
        let at = self.now();
        let followed = self.followed(intersection);
        let Some(before) = &self.before else {
            return self.observation.map_or_else(
                || SignalState::on_time_of_day(intersection, at),
                |seen| {
                    let mut state = SignalState::unknown_before(intersection, at, seen.phase);
                    state.observe(intersection, at, seen);
                    state
                },
            );
        };
        let mut state = self.follow(intersection, before, at);
        match self.observation {
            Some(seen) => {
                let seen = seen.credible(intersection, before, (!followed.is_empty()).then_some(&state));
                // If it did something else, what the plan would have served may not have been served.
                state = self.as_planned(intersection, before, seen).unwrap_or_else(|| before.clone());
                state.observe(intersection, at, seen);
            }
            None if followed.is_empty() => {
                state = SignalState { mode: before.mode, mode_at: before.mode_at, ..SignalState::on_time_of_day(intersection, at) };
            }
            None => {}
        }
        if state.mode_at + intersection.control().plan_ttl < at {
            // A controller that ran by itself and then said nothing is taken to follow again.
            state.mode = SignalMode::Adaptive;
        }
        state
    }

    /// What following the plan leads to.
    fn follow(&self, intersection: &Intersection, before: &SignalState, to: Timestamp) -> SignalState {
        let mut state = before.clone();
        state.follow(intersection, self.followed(intersection), to);
        state
    }

    /// The same, if it fits what the controller reports. That may be late: a plan took its time to arrive, and the controller looks at it
    /// once a second.
    fn as_planned(&self, intersection: &Intersection, before: &SignalState, seen: Observation) -> Option<SignalState> {
        let moments = (0..=PLAN_LATENCY.tenths() / 10).map(|late| self.now() - Deciseconds::from_secs(late));
        let mut states = moments.take_while(|&to| to >= before.at).map(|to| self.follow(intersection, before, to));
        states.find(|state| state.agrees_with(seen))
    }

    /// The first change that the plan in force asks for, if an adaptive controller follows it and reports.
    fn asked(&self, intersection: &Intersection) -> Option<Asked> {
        let modes = [self.observation.map(|seen| seen.mode), self.before.as_ref().map(|before| before.mode)];
        let adaptive = modes == [Some(SignalMode::Adaptive); 2];
        self.in_force.asked.filter(|_| adaptive && !self.followed(intersection).is_empty())
    }

    /// How long plans take to reach the controller, by what the signal shows at the newest step.
    fn latency_by(&self, intersection: &Intersection, state: &SignalState) -> Latency {
        self.latency.learn(self.asked(intersection), state.phase)
    }

    /// Whether an adaptive controller does something else than its plan: it makes a change later than any plan comes, or still has not made
    /// it, or makes one that is not asked for yet.
    pub fn strays(&self, intersection: &Intersection, state: &SignalState) -> bool {
        let Some(asked) = self.asked(intersection) else { return false };
        let followed = self.followed(intersection);
        let (stage, start) = state.phase.reached();
        let heard_before = self.before.as_ref().is_some_and(SignalState::is_reported);
        if heard_before && !followed.iter().any(|entry| entry.stage == stage && entry.start <= start + LATE) {
            return true;
        }
        // Unheard, it may have made the change that was asked for, and those after it.
        let mut later = followed.iter().skip_while(|entry| entry.stage != asked.stage).skip(1);
        let went_on = later.any(|entry| entry.stage == stage && entry.start <= state.at);
        !went_on && self.latency.is_overdue(asked, state.phase, state.at)
    }

    /// When the running green began by what the controller reported before and by its newest report, if the two contradict each other.
    pub fn contradiction(&self, known: &SignalState) -> Option<(Timestamp, Timestamp)> {
        self.observation.and_then(|seen| known.contradicts(seen))
    }

    /// What a decision on the newest step rests on.
    fn inputs(&self, intersection: &Intersection) -> Inputs {
        let state = self.signal(intersection);
        let mut estimate = self.estimate.clone();
        estimate.advance(intersection, self.before.as_ref(), &state);
        let latency = self.latency_by(intersection, &state).of_plans();
        Inputs { estimate, state, in_force: self.followed(intersection).to_vec(), latency }
    }

    /// Decides on the newest step. The plan is none if nothing safe could be planned.
    pub fn decide(&mut self, intersection: &Intersection) -> (Inputs, Decision, Option<PublishedPlan>) {
        let inputs = self.inputs(intersection);
        let decision = inputs.decide(intersection);
        let plan = decision.plan.as_ref().ok().map(|plan| {
            if plan.stages() != self.newest_stages() {
                self.revision += 1;
            }
            let asked = Asked::by(plan.stages(), inputs.state.at, self.observation.is_some(), self.in_force.asked);
            self.decided = InForce { stages: plan.stages().to_vec(), asked, valid_until: plan.valid_until() };
            publish(intersection, (self.revision, self.as_of), plan, &decision)
        });
        if plan.is_none() {
            self.decided = self.in_force.clone();
        }
        (inputs, decision, plan)
    }

    fn newest_stages(&self) -> &[PlannedStage] {
        if self.decided.stages.is_empty() { &self.in_force.stages } else { &self.decided.stages }
    }
}

fn publish(
    intersection: &Intersection,
    (revision, as_of): (u64, Timestamp),
    plan: &crate::plan::SignalPlan,
    decision: &Decision,
) -> PublishedPlan {
    let stages = plan.stages().iter().filter_map(|entry| {
        let stage = intersection.stages().get(entry.stage)?;
        Some(PlanStage { stage: stage.id.clone(), start: entry.start, green_s: entry.green })
    });
    PublishedPlan {
        intersection_id: intersection.id().clone(),
        revision,
        as_of,
        valid_until: plan.valid_until(),
        source: decision.source,
        stages: stages.collect(),
        reason: Reason { code: decision.reason.code.clone(), text: decision.reason.text.clone() },
    }
}

/// The stored form: instants as milliseconds from the newest step, so that a junction fits into one kilobyte.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stored {
    layout: u64,
    as_of: i64,
    revision: u64,
    detectors: Vec<DetectorState>,
    discharge: Vec<Discharge>,
    queues: Vec<Queue>,
    latency: Latency,
    before: Option<StoredSignal>,
    in_force: StoredPlan,
    observation: Option<(i64, StoredPhase, u8)>,
    decided: StoredPlan,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct StoredSignal {
    at: i64,
    phase: StoredPhase,
    mode: u8,
    mode_at: i64,
    red_since: Vec<Option<i64>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum StoredPhase {
    Green(u8, i64),
    Clearing(u8, u8, i64),
}

#[derive(Serialize, Deserialize)]
struct StoredPlan {
    stages: Vec<(u8, i64, u32)>,
    asked: Option<(u16, i64, u8)>,
    valid_until: i64,
}

/// Bytes that are no stored state.
#[derive(Debug, thiserror::Error)]
#[error("the stored state cannot be read: {0}")]
pub struct UnreadableState(#[from] postcard::Error);

const MODES: [SignalMode; 5] = [SignalMode::Adaptive, SignalMode::TimeOfDay, SignalMode::Flash, SignalMode::Preempted, SignalMode::Manual];

/// Turns instants into distances from the newest step, and back.
#[derive(Clone, Copy)]
struct Near(i64);

impl Near {
    const fn from(self, at: Timestamp) -> i64 {
        at.as_millis() - self.0
    }

    const fn back(self, distance: i64) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_add(distance))
    }

    fn store_phase(self, phase: Phase) -> StoredPhase {
        let number = |stage: usize| u8::try_from(stage).unwrap_or(u8::MAX);
        match phase {
            Phase::Green { stage, since } => StoredPhase::Green(number(stage), self.from(since)),
            Phase::Clearing { from, to, until } => StoredPhase::Clearing(number(from), number(to), self.from(until)),
        }
    }

    const fn phase(self, stored: StoredPhase) -> Phase {
        match stored {
            StoredPhase::Green(stage, since) => Phase::Green { stage: stage as usize, since: self.back(since) },
            StoredPhase::Clearing(from, to, until) => Phase::Clearing { from: from as usize, to: to as usize, until: self.back(until) },
        }
    }

    fn store_plan(self, plan: &InForce) -> StoredPlan {
        let stages = plan.stages.iter().map(|s| (u8::try_from(s.stage).unwrap_or(u8::MAX), self.from(s.start), s.green.tenths()));
        let asked = plan.asked.map(|a| (a.due_in_ds, self.from(a.start), u8::try_from(a.stage).unwrap_or(u8::MAX)));
        StoredPlan { stages: stages.collect(), asked, valid_until: self.from(plan.valid_until) }
    }

    fn plan(self, stored: &StoredPlan) -> InForce {
        let stages = stored.stages.iter().map(|&(stage, start, green)| PlannedStage {
            stage: usize::from(stage),
            start: self.back(start),
            green: Deciseconds::new(green),
        });
        let asked = stored.asked.map(|(due_in_ds, start, stage)| Asked { due_in_ds, start: self.back(start), stage: usize::from(stage) });
        InForce { stages: stages.collect(), asked, valid_until: self.back(stored.valid_until) }
    }
}

fn store_mode(mode: SignalMode) -> u8 {
    MODES.iter().position(|m| *m == mode).and_then(|i| u8::try_from(i).ok()).unwrap_or_default()
}

fn mode(stored: u8) -> SignalMode {
    MODES.get(usize::from(stored)).copied().unwrap_or(SignalMode::Adaptive)
}

impl Junction {
    /// Compact bytes for the store.
    ///
    /// # Errors
    /// [`postcard::Error`] if memory runs out.
    pub fn to_bytes(&self) -> Result<Vec<u8>, postcard::Error> {
        let near = Near(self.as_of.as_millis());
        let detectors = self.estimate.detectors().iter().map(|d| DetectorState { last: d.last.map(|last| last - near.0), ..*d });
        postcard::to_stdvec(&Stored {
            layout: self.layout,
            as_of: near.0,
            revision: self.revision,
            detectors: detectors.collect(),
            discharge: self.estimate.discharge().to_vec(),
            queues: self.estimate.queues.clone(),
            latency: self.latency,
            before: self.before.as_ref().map(|state| StoredSignal {
                at: near.from(state.at),
                phase: near.store_phase(state.phase),
                mode: store_mode(state.mode),
                mode_at: near.from(state.mode_at),
                red_since: state.red_since.iter().map(|red| red.map(|since| near.from(since))).collect(),
            }),
            in_force: near.store_plan(&self.in_force),
            observation: self.observation.map(|seen| (near.from(seen.at), near.store_phase(seen.phase), store_mode(seen.mode))),
            decided: near.store_plan(&self.decided),
        })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`UnreadableState`] if the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnreadableState> {
        let stored: Stored = postcard::from_bytes(bytes)?;
        let near = Near(stored.as_of);
        let detectors = stored.detectors.into_iter().map(|d| DetectorState { last: d.last.map(|last| last.saturating_add(near.0)), ..d });
        Ok(Self {
            layout: stored.layout,
            as_of: Timestamp::from_millis(stored.as_of),
            revision: stored.revision,
            estimate: Estimate::from_parts(detectors.collect(), stored.discharge, stored.queues),
            latency: stored.latency,
            before: stored.before.map(|state| SignalState {
                at: near.back(state.at),
                phase: near.phase(state.phase),
                mode: mode(state.mode),
                mode_at: near.back(state.mode_at),
                red_since: state.red_since.iter().map(|red| red.map(|since| near.back(since))).collect(),
            }),
            in_force: near.plan(&stored.in_force),
            observation: stored.observation.map(|(at, phase, m)| Observation {
                at: near.back(at),
                phase: near.phase(phase),
                mode: mode(m),
            }),
            decided: near.plan(&stored.decided),
        })
    }
}
