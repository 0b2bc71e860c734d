//! One group of records of one key: read once, judge, write once with a condition, tell what changed.
//!
//! Changes of alerts are written with the state that decided them and told afterwards; what a crash leaves untold is told
//! by whoever loads the row next. So an alert is stored and its event sent at least once, always with the same id.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::alert::AlertChange;
use shared::asset::DETECTOR;
use shared::attempts::{ATTEMPTS, AttemptError, WorkflowError};
use shared::ids::{AssetKind, IntersectionId};
use shared::metrics::METRICS;
use shared::ports::{
    AlertStore, Clock, Condition, ConditionReader, ConditionRow, ConditionStore, EventBus, IntersectionStore, ModelSource, PortError,
};
use shared::prognosis::{Model, Models};
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::ReadingRecord;

use crate::state::{Folded, State};

/// Keys that a warm function remembers. A junction with 24 detectors takes about 50 KB.
const REMEMBERED_MAX: usize = 1_000;
/// A junction of which nothing came for this long is looked at by the sweep: five minutes longer than a batch may wait to be
/// filled.
const QUIET: Deciseconds = Deciseconds::from_secs(600);
/// Entries read at once by the sweep.
const SWEEP_PAGE: usize = 100;

/// What happened to the readings of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Readings that changed what is known.
    pub folded: u32,
    /// Readings not newer than the newest of their source.
    pub replayed: u32,
    /// Readings that say nothing about the condition of an asset.
    pub ignored: u32,
    /// Alerts of which was told.
    pub alerts: Told,
}

/// Changes of alerts that were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Began, or came back.
    pub raised: u32,
    /// Ended.
    pub cleared: u32,
}

/// Whether an intersection is configured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Configured {
    Yes,
    No,
    /// By an earlier version; this one refuses it.
    Outdated,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Configured intersections from which nothing came for a while.
    pub quiet: u32,
    /// Configured intersections that have never been heard of.
    pub unheard: u32,
    /// Alerts of which was told.
    pub alerts: Told,
}

/// Turns records into conditions and alerts.
pub struct Workflow<S, B, M, C> {
    store: S,
    bus: B,
    models: Models<M>,
    clock: C,
    configuration_ttl: Deciseconds,
    warm: Mutex<HashMap<String, Warm>>,
}

/// What a warm function remembers of a key: saves the reads, and the condition of the write makes it safe.
struct Warm {
    version: u64,
    received_at: Timestamp,
    state: State,
    /// When the configured detectors were read.
    expected_at: Option<Timestamp>,
}

impl<S, B, M, C> Workflow<S, B, M, C>
where
    S: ConditionStore + ConditionReader + AlertStore + IntersectionStore,
    B: EventBus,
    M: ModelSource,
    C: Clock + Clone + 'static,
{
    /// A workflow over a store. Which detectors are configured is read again when it is older than `configuration_ttl`.
    pub fn new(store: S, bus: B, models: M, clock: C, configuration_ttl: Deciseconds) -> Self {
        Self { store, bus, models: Models::new(models, clock.clone()), clock, configuration_ttl, warm: Mutex::default() }
    }

    /// Handles the records of one key, in the order of the stream.
    ///
    /// # Errors
    /// [`WorkflowError`] if they did not take effect; sending them again is safe.
    pub async fn handle(&self, key: &str, records: &[ReadingRecord]) -> Result<Tally, WorkflowError> {
        let readings = || records.iter().flat_map(|record| &record.readings);
        if readings().all(|reading| matches!(reading, SensorReading::SignalState(_) | SensorReading::Position(_))) {
            return Ok(Tally { ignored: u32::try_from(readings().count()).unwrap_or(u32::MAX), ..Tally::default() });
        }
        let mut models = HashMap::new();
        for reading in readings() {
            if let SensorReading::Telemetry(telemetry) = reading
                && !models.contains_key(&telemetry.asset_kind)
            {
                models.insert(telemetry.asset_kind.clone(), self.model_of(&telemetry.asset_kind).await?);
            }
        }
        for _ in 0..ATTEMPTS {
            match self.attempt(key, records, &models).await {
                Err(AttemptError::Conflict) => {}
                Err(AttemptError::Other(error)) => return Err(error),
                Ok(tally) => return Ok(tally),
            }
        }
        Err(WorkflowError::Contended)
    }

    /// The model of a kind; a file that cannot be used is none, so that it does not hold readings back.
    async fn model_of(&self, kind: &AssetKind) -> Result<Option<Arc<Model>>, PortError> {
        match self.models.of(kind).await {
            Err(error @ PortError::Unusable(..)) => {
                tracing::error!(%kind, %error, "machines of a kind are judged by no model");
                Ok(None)
            }
            outcome => outcome,
        }
    }

    async fn attempt(
        &self,
        key: &str,
        records: &[ReadingRecord],
        models: &HashMap<AssetKind, Option<Arc<Model>>>,
    ) -> Result<Tally, AttemptError> {
        let mut warm = self.recall(key).await?;
        self.expect_configured(key, records, &mut warm).await?;
        let mut tally = Tally::default();
        for record in records {
            warm.received_at = warm.received_at.max(record.received_at);
            for reading in &record.readings {
                let model = match reading {
                    SensorReading::Telemetry(telemetry) => models.get(&telemetry.asset_kind).and_then(Option::as_deref),
                    _ => None,
                };
                let count = match warm.state.fold(reading, model) {
                    Folded::New => &mut tally.folded,
                    Folded::Replayed => &mut tally.replayed,
                    Folded::Ignored => &mut tally.ignored,
                };
                *count += 1;
            }
        }
        // A changed configuration may have cleared alerts without a new reading: nothing is told that is not written. What is not
        // written is not remembered either: a cold function would judge otherwise.
        if tally.folded > 0 || !warm.state.advisory().is_told() {
            self.save(key, &mut warm).await?;
            tally.alerts = self.tell(key, &mut warm).await?;
            self.remember(key, warm);
        }
        Ok(tally)
    }

    /// Takes the state from memory or the store.
    async fn recall(&self, key: &str) -> Result<Warm, PortError> {
        if let Some(warm) = self.warm().remove(key) {
            return Ok(warm);
        }
        Ok(match self.store.load_condition(key).await? {
            Some(ConditionRow { version, condition, state }) => {
                let state = State::from_bytes(&state, key, condition.as_of);
                Warm { version, received_at: condition.received_at, state, expected_at: None }
            }
            None => Warm { version: 0, received_at: Timestamp::from_millis(i64::MIN), state: State::default(), expected_at: None },
        })
    }

    /// What the clock shows.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn remember(&self, key: &str, warm: Warm) {
        let mut all = self.warm();
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(key.to_owned(), warm);
    }

    fn warm(&self) -> MutexGuard<'_, HashMap<String, Warm>> {
        // Entries are inserted and removed whole; a panic elsewhere leaves none half done.
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the state which detectors are configured, if that was not read lately.
    async fn expect_configured(&self, key: &str, records: &[ReadingRecord], warm: &mut Warm) -> Result<(), PortError> {
        let now = self.clock.now();
        let fresh = warm.expected_at.is_some_and(|at| now >= at && now < at + self.configuration_ttl);
        let detects = || records.iter().flat_map(|record| &record.readings).any(|reading| matches!(reading, SensorReading::Detector(_)));
        let (false, true, Ok(id)) = (fresh, detects(), IntersectionId::try_from(key)) else { return Ok(()) };
        self.expect(&id, warm).await?;
        warm.expected_at = Some(now);
        Ok(())
    }

    /// Tells the state which detectors are configured. Where this version refuses the configuration, those that were stay.
    async fn expect(&self, id: &IntersectionId, warm: &mut Warm) -> Result<Configured, PortError> {
        match self.store.get(id).await {
            Ok(Some((_, intersection))) => {
                warm.state.expect(&intersection, warm.received_at);
                Ok(Configured::Yes)
            }
            Ok(None) => {
                warm.state.expect_nothing(warm.received_at);
                Ok(Configured::No)
            }
            Err(error @ PortError::Outdated(..)) => {
                tracing::error!(%error, "which detectors there are stays as it was");
                Ok(Configured::Outdated)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the row, on the condition that nobody wrote it since.
    async fn save(&self, key: &str, warm: &mut Warm) -> Result<(), AttemptError> {
        let as_of = warm.state.as_of().unwrap_or(warm.received_at);
        let condition = Condition { key: key.to_owned(), as_of, received_at: warm.received_at, health: warm.state.health(as_of) };
        let row = ConditionRow { version: warm.version + 1, condition, state: warm.state.to_bytes()? };
        self.store.save_condition(&row).await?;
        warm.version = row.version;
        Ok(())
    }

    /// Stores and publishes what has not been told of the alerts, and notes that it is.
    async fn tell(&self, key: &str, warm: &mut Warm) -> Result<Told, AttemptError> {
        let (alerts, events) = warm.state.advisory().untold();
        if events.is_empty() {
            return Ok(Told::default());
        }
        self.store.put_alerts(&alerts).await?;
        match self.bus.publish(&events).await {
            // Sending it again would be refused again, and readings would wait for it for ever.
            Err(error @ PortError::Unusable(..)) => {
                tracing::error!(key, %error, "the events of an alert were refused for good");
                tracing::info!(target: METRICS, events_refused = events.len(), "events were refused");
            }
            outcome => outcome?,
        }
        for alert in &alerts {
            tracing::info!(key, alert = %alert.id, fault = alert.fault.name(), cleared = alert.cleared_at.is_some(), "an alert changed");
        }
        let advisory = warm.state.advisory();
        let told = Told { raised: advisory.untold_of(AlertChange::Raised), cleared: advisory.untold_of(AlertChange::Cleared) };
        advisory.told();
        self.save(key, warm).await?;
        Ok(told)
    }

    /// Looks for what no reading can tell: intersections that fell silent as a whole, or were never heard of.
    ///
    /// The sensors' clock is taken to run on since the last reading at the pace of ours, so recorded data of another year is
    /// judged like data of today.
    ///
    /// # Errors
    /// [`WorkflowError`] if a store failed; what was done until then stands, and the next sweep does the rest.
    pub async fn sweep(&self) -> Result<Swept, WorkflowError> {
        let now = self.clock.now();
        let (mut swept, mut heard, mut after) = (Swept::default(), HashSet::new(), None::<String>);
        loop {
            let page = self.store.conditions(after.as_deref(), SWEEP_PAGE).await?;
            for condition in page.items {
                let quiet = now.since(condition.received_at) >= QUIET;
                if quiet && condition.health.iter().any(|health| health.kind.as_str() == DETECTOR) {
                    let (configured, Told { raised, cleared }) = self.sweep_key(&condition.key, now).await?;
                    swept.quiet += u32::from(configured);
                    swept.alerts.raised += raised;
                    swept.alerts.cleared += cleared;
                }
                heard.insert(condition.key);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        loop {
            let page = self.store.ids("", after.as_deref(), SWEEP_PAGE).await?;
            for id in page.items.iter().filter(|id| !heard.contains(id.as_str())) {
                match self.expect_first(id, now).await? {
                    Configured::Outdated => swept.quiet += 1,
                    _ => swept.unheard += 1,
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let Swept { quiet, unheard, alerts: Told { raised, cleared } } = swept;
        tracing::info!(
            target: METRICS,
            junctions_quiet = quiet,
            junctions_unheard = unheard,
            alerts_raised = raised,
            alerts_cleared = cleared,
            "swept"
        );
        Ok(swept)
    }

    /// Notes what has not reported; returns whether the key is a configured intersection, and the alerts of which was told.
    async fn sweep_key(&self, key: &str, now: Timestamp) -> Result<(bool, Told), WorkflowError> {
        // Another instance may have seen it recover: what is stored counts, not what is remembered.
        drop(self.warm().remove(key));
        let mut warm = self.recall(key).await?;
        let configured = match IntersectionId::try_from(key) {
            Ok(id) => self.expect(&id, &mut warm).await? != Configured::No,
            Err(_) => false,
        };
        let as_of = warm.state.as_of().unwrap_or(warm.received_at);
        warm.state.sweep(as_of + now.since(warm.received_at));
        let changes = !warm.state.advisory().is_told();
        let outcome = async {
            if changes {
                self.save(key, &mut warm).await?;
            }
            self.tell(key, &mut warm).await
        };
        match outcome.await {
            Ok(changed) => {
                // What is not written is not remembered either: a cold function would judge otherwise.
                if changes {
                    self.remember(key, warm);
                }
                Ok((configured, changed))
            }
            // Readings came in the meantime: it is not silent any more.
            Err(AttemptError::Conflict) => Ok((false, Told::default())),
            Err(AttemptError::Other(error)) => Err(error),
        }
    }

    /// Makes the row of a configured intersection of which nothing was ever heard, so that later sweeps miss its detectors.
    async fn expect_first(&self, id: &IntersectionId, now: Timestamp) -> Result<Configured, WorkflowError> {
        let mut warm = Warm { version: 0, received_at: now, state: State::default(), expected_at: None };
        let configured = self.expect(id, &mut warm).await?;
        if configured == Configured::Outdated {
            // A row without detectors would hide it from later sweeps.
            return Ok(configured);
        }
        warm.state.sweep(now);
        match self.save(id.as_str(), &mut warm).await {
            // Its first readings came in the meantime.
            Ok(()) | Err(AttemptError::Conflict) => Ok(configured),
            Err(AttemptError::Other(error)) => Err(error),
        }
    }
}
