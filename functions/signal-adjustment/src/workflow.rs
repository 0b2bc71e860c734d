//! One group of records of one key: read once, decide, write once with a condition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::asset::detectors_in_alarm;
use shared::attempts::{ATTEMPTS, AttemptError, WorkflowError};
use shared::ids::{DetectorId, IntersectionId};
use shared::intersection::Intersection;
use shared::plan::{DecisionRecord, PublishedPlan};
use shared::ports::{Clock, ConditionReader, DecisionLog, IntersectionStore, JunctionRow, JunctionStore, PortError};
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::ReadingRecord;

use crate::junction::{Folded, Junction};
use crate::record::record;

/// Junctions that a warm function remembers. One takes about 2 KB and its configuration 20 KB.
const REMEMBERED_MAX: usize = 2_000;
/// Steps for which a junction is read before it is decided, once another function has written it. A refused write costs as much
/// as five reads and its records besides, and whoever wrote once will write again.
const READ_STEPS: u8 = 20;

/// What happened to the readings of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Readings that changed what is known.
    pub folded: u32,
    /// Readings that were known already.
    pub replayed: u32,
    /// Readings older than the newest step.
    pub late: u32,
    /// Readings that do not bear on signals.
    pub ignored: u32,
    /// Readings of intersections that nobody configured, or that this version refuses.
    pub unconfigured: u32,
    /// Decisions made.
    pub decisions: u32,
    /// Decisions that found no safe plan, or no configuration that this version accepts.
    pub held: u32,
    /// Detectors without a say in the last decision.
    pub distrusted: u32,
    /// Reports of a controller that does something else than its plan.
    pub strayed: u32,
    /// How long plans took to reach the controller, as of the last decision.
    pub plan_latency: Deciseconds,
    /// Writes that were refused because another function had written first.
    pub overtaken: u32,
}

/// Turns records into plans.
pub struct Workflow<S, C> {
    store: S,
    clock: C,
    configuration_ttl: Deciseconds,
    warm: Mutex<HashMap<IntersectionId, Warm>>,
}

/// What a warm function remembers of a junction: saves the reads, and the condition of the write makes it safe.
struct Warm {
    intersection: Arc<Intersection>,
    /// Detectors that maintenance holds in alarm.
    in_alarm: Vec<DetectorId>,
    read_at: Timestamp,
    row: Option<(u64, Junction, PublishedPlan)>,
    /// For so many steps what is stored counts, not what is remembered.
    read_steps: u8,
}

impl<S, C> Workflow<S, C>
where
    S: IntersectionStore + ConditionReader + JunctionStore + DecisionLog,
    C: Clock,
{
    /// A workflow over a store. The configuration and the condition of the detectors are read again when they are older than
    /// `configuration_ttl`.
    pub fn new(store: S, clock: C, configuration_ttl: Deciseconds) -> Self {
        Self { store, clock, configuration_ttl, warm: Mutex::default() }
    }

    /// Handles the records of one key, in the order of the stream.
    ///
    /// # Errors
    /// [`WorkflowError`] if they did not take effect; sending them again is safe.
    pub async fn handle(&self, key: &str, records: &[ReadingRecord]) -> Result<Tally, WorkflowError> {
        let readings = || records.iter().flat_map(|record| &record.readings);
        let count = || u32::try_from(readings().count()).unwrap_or(u32::MAX);
        let about_signals = readings().any(|r| matches!(r, SensorReading::Detector(_) | SensorReading::SignalState(_)));
        let Some(id) = IntersectionId::try_from(key).ok().filter(|_| about_signals) else {
            return Ok(Tally { ignored: count(), ..Tally::default() });
        };
        for overtaken in (0..).take(ATTEMPTS) {
            let remembered = match self.remember(&id).await {
                // Held back, its readings would hold up the other junctions of their shard.
                Err(WorkflowError::Port(error @ PortError::Outdated(..))) => {
                    tracing::error!(%error, "no plan until the configuration is corrected");
                    return Ok(Tally { unconfigured: count(), held: 1, ..Tally::default() });
                }
                remembered => remembered?,
            };
            let Some(warm) = remembered else {
                let unconfigured = count();
                tracing::info!(intersection = key, unconfigured, "readings of an intersection that nobody configured make no plan");
                return Ok(Tally { unconfigured, ..Tally::default() });
            };
            match self.attempt(&id, warm, records).await {
                Err(AttemptError::Conflict) => {}
                Err(AttemptError::Other(error)) => return Err(error),
                Ok(tally) => return Ok(Tally { overtaken, ..tally }),
            }
        }
        Err(WorkflowError::Contended)
    }

    /// What the clock shows.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn warm(&self) -> MutexGuard<'_, HashMap<IntersectionId, Warm>> {
        // Entries are inserted and removed whole; a panic elsewhere leaves none half done.
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is remembered, reading what is missing or too old. None if nobody configured the intersection.
    async fn remember(&self, id: &IntersectionId) -> Result<Option<Warm>, WorkflowError> {
        let now = self.clock.now();
        let known = self.warm().remove(id);
        let fresh = known.as_ref().is_some_and(|warm| now >= warm.read_at && now < warm.read_at + self.configuration_ttl);
        if fresh {
            return Ok(known);
        }
        let Some((_, intersection)) = self.store.get(id).await? else { return Ok(None) };
        let condition = self.store.condition(id.as_str()).await?;
        let in_alarm = condition.map(|condition| detectors_in_alarm(&condition.health).collect()).unwrap_or_default();
        let (row, read_steps) = known.map_or((None, 0), |warm| (warm.row, warm.read_steps));
        Ok(Some(Warm { intersection, in_alarm, read_at: now, row, read_steps }))
    }

    fn keep(&self, id: &IntersectionId, warm: Warm) {
        let mut all = self.warm();
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(id.clone(), warm);
    }

    async fn attempt(&self, id: &IntersectionId, warm: Warm, group: &[ReadingRecord]) -> Result<Tally, AttemptError> {
        let intersection = Arc::clone(&warm.intersection);
        let remembered = warm.row.as_ref().map(|row| row.0);
        let stored = match warm.row {
            Some(row) if warm.read_steps == 0 => Some(row),
            _ => self.load(id, &intersection).await?,
        };
        let overtaken = remembered.is_some() && remembered != stored.as_ref().map(|row| row.0);
        let read_steps = if overtaken { READ_STEPS } else { warm.read_steps.saturating_sub(1) };
        let (version, junction, mut plan) = match stored {
            Some((version, junction, plan)) => (version, junction, Some(plan)),
            None => (0, Junction::unknown(&intersection), None),
        };
        let mut junction = junction.under(&intersection);
        junction.set_in_alarm(&intersection, &warm.in_alarm);
        let mut step = Steps { intersection: &intersection, junction, reported: false, tally: Tally::default(), records: vec![] };
        let mut undecided = false;
        for reading in group.iter().flat_map(|record| &record.readings) {
            if undecided && step.junction.begins_step(&intersection, reading) {
                step.decide(&mut plan);
                undecided = false;
            }
            undecided |= step.fold(reading);
        }
        if undecided {
            step.decide(&mut plan);
        }
        let Steps { junction, tally, records, .. } = step;
        if tally.late > 0 && tally.folded == 0 {
            tracing::warn!(intersection = %id, late = tally.late, as_of = %junction.as_of(), "all readings are older than the newest step");
        }
        let row = match plan {
            Some(plan) if tally.decisions > 0 => {
                // The record goes first: one that is missing after a written row would stay missing. It is keyed by time; a writer that
                // loses the row to another with other readings of the same second may leave its own.
                if !records.is_empty() {
                    self.store.record(&records).await?;
                }
                let row = JunctionRow { version: version + 1, plan, state: junction.to_bytes()? };
                if let Err(error) = self.store.save(&row).await {
                    let Warm { in_alarm, read_at, .. } = warm;
                    self.keep(id, Warm { intersection, in_alarm, read_at, row: None, read_steps: READ_STEPS });
                    return Err(error.into());
                }
                if !records.is_empty() {
                    let request_id = group.iter().rev().find_map(|record| record.request_id.as_deref());
                    tracing::info!(intersection = %id, revision = row.plan.revision, as_of = %row.plan.as_of, request_id, "the plan changed");
                }
                Some((row.version, junction, row.plan))
            }
            Some(plan) => Some((version, junction, plan)),
            None => None,
        };
        self.keep(id, Warm { intersection, in_alarm: warm.in_alarm, read_at: warm.read_at, row, read_steps });
        Ok(tally)
    }

    async fn load(&self, id: &IntersectionId, intersection: &Intersection) -> Result<Option<(u64, Junction, PublishedPlan)>, PortError> {
        let Some(row) = self.store.load(id).await? else { return Ok(None) };
        let junction = Junction::from_bytes(&row.state).unwrap_or_else(|error| {
            // Another version wrote it. A few steps of readings replace what it knew; a junction without plans would not.
            tracing::error!(intersection = %id, %error, "the state of a junction begins anew");
            Junction::after(intersection, &row.plan)
        });
        Ok(Some((row.version, junction, row.plan)))
    }
}

/// The steps of one group.
struct Steps<'i> {
    intersection: &'i Intersection,
    junction: Junction,
    /// One of the readings was a report of the controller.
    reported: bool,
    tally: Tally,
    records: Vec<DecisionRecord>,
}

impl Steps<'_> {
    /// Folds a reading; true if a decision is due.
    fn fold(&mut self, reading: &SensorReading) -> bool {
        let folded = self.junction.fold(self.intersection, reading);
        if let (Folded::Ignored, SensorReading::SignalState(state)) = (folded, reading) {
            tracing::warn!(intersection = %state.intersection_id, stage = %state.stage, "the report names a stage that is not configured, or a clearance that cannot be");
        }
        let count = match folded {
            Folded::New => &mut self.tally.folded,
            Folded::Replayed => &mut self.tally.replayed,
            Folded::Late => &mut self.tally.late,
            Folded::Ignored => &mut self.tally.ignored,
        };
        *count += 1;
        self.reported |= folded == Folded::New && matches!(reading, SensorReading::SignalState(_));
        folded == Folded::New
    }

    fn decide(&mut self, plan: &mut Option<PublishedPlan>) {
        let (inputs, decision, decided) = self.junction.decide(self.intersection);
        self.tally.decisions += 1;
        if let Some((known, said)) = self.junction.contradiction(&inputs.state) {
            tracing::warn!(intersection = %self.intersection.id(), %known, %said, "the controller reports a stage_elapsed_s that its own reports contradict");
        }
        if self.reported && self.junction.strays(self.intersection, &inputs.state) {
            self.tally.strayed += 1;
            let id = |stage: usize| self.intersection.stages().get(stage).map_or("", |stage| stage.id.as_str());
            let shown = id(inputs.state.stage());
            let planned = inputs.in_force.iter().map(|entry| format!("{} from {}", id(entry.stage), entry.start));
            let planned = planned.collect::<Vec<_>>().join(", ");
            tracing::warn!(intersection = %self.intersection.id(), shown, planned, "the controller does something else than its plan");
        }
        self.tally.plan_latency = inputs.latency;
        self.tally.distrusted = u32::try_from(decision.distrusted.len()).unwrap_or(u32::MAX);
        match (decided, &decision.plan) {
            (Some(next), _) => {
                if is_news(plan.as_ref(), &next) {
                    self.records.push(record(self.intersection, &inputs, &decision, plan.as_ref(), &next));
                }
                *plan = Some(next);
            }
            (None, outcome) => {
                self.tally.held += 1;
                let violation = outcome.as_ref().err().map(ToString::to_string);
                tracing::error!(intersection = %self.intersection.id(), violation, "no safe plan was found; the last one runs out");
            }
        }
    }
}

/// Whether a plan deserves a record: it changes course, or its reason, or who decides, or replaces what was decided on a
/// part of its step.
fn is_news(previous: Option<&PublishedPlan>, next: &PublishedPlan) -> bool {
    let course = |plan: &PublishedPlan| plan.stages.iter().take(2).map(|s| s.stage.clone()).collect::<Vec<_>>();
    previous.is_none_or(|previous| {
        (previous.as_of == next.as_of && previous != next)
            || previous.source != next.source
            || previous.reason.code != next.reason.code
            || course(previous) != course(next)
    })
}
