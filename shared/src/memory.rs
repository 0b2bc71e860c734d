//! In-memory twins of all ports: the executable port contract, used by tests and by the simulated city.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::alert::{Acknowledgement, Alert, CloudEvent};
use crate::asset::Asset;
use crate::ids::{AlertId, AssetId, AssetKind, IntersectionId, sort_key};
use crate::intersection::{ETag, Intersection};
use crate::plan::{DecisionRecord, PublishedPlan};
use crate::ports::{
    AcknowledgementStore, AlertReader, AlertStore, AssetStore, Clock, Condition, ConditionReader, ConditionRow, ConditionStore,
    DecisionLog, EventBus, IntersectionStore, JunctionRow, JunctionStore, ModelSource, Page, PlanReader, PoisonRecord, PortError,
    Quarantine, ReadingStream, StoredIntersection, StreamRecord, WriteError,
};
use crate::units::Timestamp;

/// Bytes of one record with its key.
const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// Everything that Greenwave keeps, in memory. Clones share the content.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    stream: Vec<StreamRecord>,
    intersections: BTreeMap<String, (ETag, Configuration)>,
    junctions: BTreeMap<String, JunctionRow>,
    decisions: BTreeMap<(String, Timestamp), DecisionRecord>,
    quarantine: BTreeMap<(&'static str, String), PoisonRecord>,
    assets: BTreeMap<String, Asset>,
    conditions: BTreeMap<String, ConditionRow>,
    alerts: BTreeMap<String, Alert>,
    acknowledgements: BTreeMap<AlertId, Acknowledgement>,
    events: Vec<CloudEvent>,
    models: BTreeMap<AssetKind, Vec<u8>>,
}

/// What is stored of an intersection.
enum Configuration {
    Accepted(Arc<Intersection>),
    /// The text of a document that an earlier version accepted.
    Outdated(String),
}

impl Memory {
    /// An empty memory.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // Every change is a single insert or remove, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a document that this version refuses, as an earlier one would have left it.
    pub fn keep_outdated(&self, id: &IntersectionId, document: &str) {
        let stored = (ETag::of(&document.into()), Configuration::Outdated(document.to_owned()));
        self.lock().intersections.insert(id.as_str().to_owned(), stored);
    }

    /// All records of the stream, in the order of their arrival.
    pub fn stream(&self) -> Vec<StreamRecord> {
        self.lock().stream.clone()
    }

    /// All poison records.
    pub fn quarantined(&self) -> Vec<PoisonRecord> {
        self.lock().quarantine.values().cloned().collect()
    }

    /// All events, in the order in which they were published.
    pub fn events(&self) -> Vec<CloudEvent> {
        self.lock().events.clone()
    }

    /// Keeps the file of a model.
    pub fn put_model(&self, kind: AssetKind, file: Vec<u8>) {
        self.lock().models.insert(kind, file);
    }

    /// All rows of junctions.
    pub fn junctions(&self) -> Vec<JunctionRow> {
        self.lock().junctions.values().cloned().collect()
    }
}

/// The entries of a map after a key that begin with a prefix, as one page.
fn page<V, T>(map: &BTreeMap<String, V>, prefix: &str, after: Option<&str>, limit: usize, show: impl Fn(&str, &V) -> T) -> Page<T> {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
        _ => Bound::Included(prefix.to_owned()),
    };
    let mut rows = map.range((start, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix)).peekable();
    let (mut items, mut last) = (Vec::new(), None);
    while items.len() < limit
        && let Some((key, value)) = rows.next()
    {
        items.push(show(key, value));
        last = Some(key.clone());
    }
    Page { items, next: rows.peek().and(last) }
}

impl ReadingStream for Memory {
    async fn append(&self, records: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> {
        let fits = |record: &&StreamRecord| record.key.len() + record.data.len() <= RECORD_BYTES_MAX;
        let too_large = || PortError::Unusable("the stream", format!("a record is larger than {RECORD_BYTES_MAX} bytes"));
        self.lock().stream.extend(records.iter().filter(fits).cloned());
        Ok(records.iter().map(|record| if fits(&record) { Ok(()) } else { Err(too_large()) }).collect())
    }
}

impl IntersectionStore for Memory {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        match self.lock().intersections.get(id.as_str()) {
            Some((tag, Configuration::Accepted(intersection))) => Ok(Some((*tag, Arc::clone(intersection)))),
            Some((tag, Configuration::Outdated(text))) => Ok(Some((*tag, Arc::new(Intersection::stored(id.clone(), text)?)))),
            None => Ok(None),
        }
    }

    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        Ok(self.lock().intersections.get(id.as_str()).map(|(tag, _)| *tag))
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        let mut content = self.lock();
        let stored = content.intersections.get(intersection.id().as_str()).map(|(tag, _)| tag);
        if stored != expected {
            return Err(WriteError::Conflict);
        }
        let accepted = (intersection.etag(), Configuration::Accepted(Arc::new(intersection.clone())));
        content.intersections.insert(intersection.id().as_str().to_owned(), accepted);
        Ok(())
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        let mut content = self.lock();
        if content.intersections.get(id.as_str()).map(|(tag, _)| tag) != Some(expected) {
            return Err(WriteError::Conflict);
        }
        content.intersections.remove(id.as_str());
        Ok(())
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        let page = page(&self.lock().intersections, "", after, limit, |_, (tag, stored)| match stored {
            Configuration::Accepted(intersection) => Some((*tag, Arc::clone(intersection))),
            Configuration::Outdated(_) => None,
        });
        Ok(Page { items: page.items.into_iter().flatten().collect(), next: page.next })
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        let page = page(&self.lock().intersections, prefix, after, limit, |id, _| IntersectionId::try_from(id).ok());
        Ok(Page { items: page.items.into_iter().flatten().collect(), next: page.next })
    }
}

impl JunctionStore for Memory {
    async fn load(&self, id: &IntersectionId) -> Result<Option<JunctionRow>, PortError> {
        Ok(self.lock().junctions.get(id.as_str()).cloned())
    }

    async fn save(&self, row: &JunctionRow) -> Result<(), WriteError> {
        let mut content = self.lock();
        let id = row.plan.intersection_id.as_str();
        if content.junctions.get(id).map_or(0, |stored| stored.version) + 1 != row.version {
            return Err(WriteError::Conflict);
        }
        content.junctions.insert(id.to_owned(), row.clone());
        Ok(())
    }
}

impl PlanReader for Memory {
    async fn plan(&self, id: &IntersectionId) -> Result<Option<PublishedPlan>, PortError> {
        Ok(self.lock().junctions.get(id.as_str()).map(|row| row.plan.clone()))
    }

    async fn plans(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<PublishedPlan>, PortError> {
        Ok(page(&self.lock().junctions, prefix, after, limit, |_, row| row.plan.clone()))
    }
}

impl DecisionLog for Memory {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        let mut content = self.lock();
        for record in records {
            content.decisions.insert((record.intersection_id.as_str().to_owned(), record.as_of), record.clone());
        }
        Ok(())
    }

    async fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> Result<Page<DecisionRecord>, PortError> {
        let content = self.lock();
        let first = after.map_or(from, |after| after.plus_millis(1).max(from));
        let rows = content.decisions.range((id.as_str().to_owned(), first)..);
        let mut rows = rows.take_while(|((key, at), _)| key == id.as_str() && *at < to).map(|(_, record)| record.clone()).peekable();
        let items: Vec<_> = rows.by_ref().take(limit).collect();
        let next = rows.peek().and(items.last()).map(|record| record.as_of.to_string());
        Ok(Page { items, next })
    }
}

impl Quarantine for Memory {
    async fn quarantine(&self, record: &PoisonRecord) -> Result<(), PortError> {
        self.lock().quarantine.insert((record.function, record.id.clone()), record.clone());
        Ok(())
    }
}

impl AssetStore for Memory {
    async fn asset(&self, id: &AssetId) -> Result<Option<Asset>, PortError> {
        Ok(self.lock().assets.get(&id.sort_key()).cloned())
    }

    async fn put_asset(&self, expected: Option<&ETag>, asset: &Asset) -> Result<(), WriteError> {
        let mut content = self.lock();
        if content.assets.get(&asset.id.sort_key()).map(Asset::etag).as_ref() != expected {
            return Err(WriteError::Conflict);
        }
        content.assets.insert(asset.id.sort_key(), asset.clone());
        Ok(())
    }

    async fn assets(&self, after: Option<&AssetId>, limit: usize) -> Result<Page<Asset>, PortError> {
        let after = after.map(AssetId::sort_key);
        let page = page(&self.lock().assets, "", after.as_deref(), limit, |_, asset| asset.clone());
        let next = page.next.and(page.items.last()).map(|asset| asset.id.to_string());
        Ok(Page { next, ..page })
    }
}

impl ConditionStore for Memory {
    async fn load_condition(&self, key: &str) -> Result<Option<ConditionRow>, PortError> {
        Ok(self.lock().conditions.get(&sort_key(key)).cloned())
    }

    async fn save_condition(&self, row: &ConditionRow) -> Result<(), WriteError> {
        let mut content = self.lock();
        let key = sort_key(&row.condition.key);
        if content.conditions.get(&key).map_or(0, |stored| stored.version) + 1 != row.version {
            return Err(WriteError::Conflict);
        }
        content.conditions.insert(key, row.clone());
        Ok(())
    }
}

impl ConditionReader for Memory {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        Ok(self.lock().conditions.get(&sort_key(key)).map(|row| row.condition.clone()))
    }

    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        let after = after.map(sort_key);
        let page = page(&self.lock().conditions, "", after.as_deref(), limit, |_, row| row.condition.clone());
        let next = page.next.and(page.items.last()).map(|condition| condition.key.clone());
        Ok(Page { next, ..page })
    }
}

impl AlertStore for Memory {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        let stored = &mut self.lock().alerts;
        for alert in alerts {
            if stored.get(alert.id.as_str()).is_none_or(|known| known.changes() <= alert.changes()) {
                stored.insert(alert.id.to_string(), alert.clone());
            }
        }
        Ok(())
    }
}

impl AlertReader for Memory {
    async fn alert(&self, id: &AlertId) -> Result<Option<Alert>, PortError> {
        Ok(self.lock().alerts.get(id.as_str()).cloned())
    }

    async fn alerts(&self, after: Option<&str>, limit: usize) -> Result<Page<Alert>, PortError> {
        Ok(page(&self.lock().alerts, "", after, limit, |_, alert| alert.clone()))
    }
}

impl AcknowledgementStore for Memory {
    async fn acknowledge(&self, id: &AlertId, acknowledgement: &Acknowledgement) -> Result<Acknowledgement, PortError> {
        let mut content = self.lock();
        let stored = content.acknowledgements.entry(id.clone()).or_insert_with(|| acknowledgement.clone());
        if stored.occurrence < acknowledgement.occurrence {
            *stored = acknowledgement.clone();
        }
        Ok(stored.clone())
    }

    async fn acknowledgements(&self, ids: &[AlertId]) -> Result<HashMap<AlertId, Acknowledgement>, PortError> {
        let content = self.lock();
        Ok(ids.iter().filter_map(|id| Some((id.clone(), content.acknowledgements.get(id)?.clone()))).collect())
    }
}

impl EventBus for Memory {
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        self.lock().events.extend_from_slice(events);
        Ok(())
    }
}

impl ModelSource for Memory {
    async fn model(&self, kind: &AssetKind) -> Result<Option<Vec<u8>>, PortError> {
        Ok(self.lock().models.get(kind).cloned())
    }
}

/// A clock that shows what it was set to.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<Mutex<Timestamp>>);

impl ManualClock {
    /// A clock that shows this instant.
    pub fn at(now: Timestamp) -> Self {
        let clock = Self::default();
        clock.set(now);
        clock
    }

    /// Shows another instant from now on.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
