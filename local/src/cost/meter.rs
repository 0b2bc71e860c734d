//! Ports that count what each call would be billed, and take as long as a call is allowed to.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::alert::{Acknowledgement, Alert, CloudEvent};
use shared::asset::Asset;
use shared::ids::{AlertId, AssetId, AssetKind, IntersectionId};
use shared::intersection::{ETag, Intersection};
use shared::item::{self, Item, UnstorableRow, bucket_of};
use shared::memory::Memory;
use shared::plan::{DecisionRecord, PublishedPlan};
use shared::ports::{
    AcknowledgementStore, AlertReader, AlertStore, AssetStore, Condition, ConditionReader, ConditionRow, ConditionStore, DecisionLog,
    EventBus, IntersectionStore, JunctionRow, JunctionStore, ModelSource, Page, PlanReader, PoisonRecord, PortError, Quarantine,
    StoredIntersection, WriteError,
};
use shared::units::Timestamp;

use super::lambda::GIB;
use super::prices::{self, Price};

/// How long a call takes from the function, network and SDK included. Allowances: DynamoDB promises single-digit milliseconds,
/// the others are rarer than one call in a thousand.
const READ: Duration = Duration::from_millis(5);
const WRITE: Duration = Duration::from_millis(7);
const QUERY: Duration = Duration::from_millis(10);
const PUBLISH: Duration = Duration::from_millis(20);

/// What was used so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<Mutex<BTreeMap<&'static str, Used>>>);

/// How much of a price was used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// At which price.
    pub(super) price: &'static Price,
    /// Calls, records, events.
    pub(super) calls: u64,
    /// Units of the price.
    pub(super) units: f64,
}

impl Meter {
    /// Adds a call with so many units.
    pub(super) fn add(&self, what: &'static str, price: &'static Price, units: f64) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = lines.entry(what).or_insert(Used { price, calls: 0, units: 0.0 });
        used.calls += 1;
        used.units += units;
    }

    /// Forgets everything: what was used until now was the preparation.
    pub(super) fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All lines, by name.
    pub(super) fn lines(&self) -> Vec<(&'static str, Used)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(what, used)| (*what, *used)).collect()
    }
}

/// Everything that is stored, in memory, as one function sees it: with a meter.
#[derive(Clone)]
pub(super) struct Metered {
    /// What is stored.
    pub(super) memory: Memory,
    /// Counts.
    pub(super) meter: Meter,
    /// Calls so far: what the SDK takes of the CPU for each is billed with the invocation.
    pub(super) calls: Arc<AtomicU32>,
}

/// Write units of an item.
#[expect(clippy::cast_precision_loss, reason = "items are small")]
fn write_units(bytes: usize) -> f64 {
    bytes.div_ceil(1024).max(1) as f64
}

/// Read units of so many bytes that one request reads.
#[expect(clippy::cast_precision_loss, reason = "items are small")]
fn read_units(bytes: usize, consistent: bool) -> f64 {
    bytes.div_ceil(4096).max(1) as f64 * if consistent { 1.0 } else { 0.5 }
}

fn size(item: Result<Item, UnstorableRow>) -> usize {
    item.map_or(0, |item| item.size())
}

impl Metered {
    /// Counts what it brings together to the same meter.
    pub(super) fn new(memory: &Memory, meter: &Meter) -> Self {
        Self { memory: memory.clone(), meter: meter.clone(), calls: Arc::default() }
    }

    pub(super) async fn call(&self, what: &'static str, price: &'static Price, units: f64, time: Duration) {
        self.meter.add(what, price, units);
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(time).await;
    }

    async fn get(&self, what: &'static str, bytes: usize, consistent: bool) {
        self.call(what, &prices::TABLE_READ, read_units(bytes, consistent), READ).await;
    }

    async fn put(&self, what: &'static str, bytes: usize) {
        self.call(what, &prices::TABLE_WRITE, write_units(bytes), WRITE).await;
    }

    /// A page over the buckets: each is asked for its share of rows at once, as `Listing` of the adapter does.
    async fn list(&self, what: &'static str, rows: impl Iterator<Item = (String, usize)>, limit: usize, consistent: bool) {
        let share = limit / usize::from(item::BUCKETS) + limit / 32 + 4;
        let mut buckets = vec![(0, 0); usize::from(item::BUCKETS)];
        for (id, bytes) in rows {
            if let Some((rows, sum)) = buckets.get_mut(usize::from(bucket_of(&id))).filter(|(rows, _)| *rows < share) {
                *rows += 1;
                *sum += bytes;
            }
        }
        let units = buckets.iter().map(|(_, bytes)| read_units(*bytes, consistent)).sum();
        self.call(what, &prices::TABLE_READ, units, QUERY).await;
    }
}

impl IntersectionStore for Metered {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        let found = IntersectionStore::get(&self.memory, id).await?;
        Self::get(self, "configuration read", found.as_ref().map_or(0, |(_, found)| item::intersection(found).size()), true).await;
        Ok(found)
    }

    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        // A read of one attribute is billed as one of the whole row.
        let found = IntersectionStore::get(self, id).await?;
        Ok(found.map(|(tag, _)| tag))
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        Self::put(self, "configuration write", item::intersection(intersection).size()).await;
        IntersectionStore::put(&self.memory, expected, intersection).await
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        self.memory.delete(id, expected).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        IntersectionStore::list(&self.memory, after, limit).await
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        let page = self.memory.ids(prefix, after, limit).await?;
        // The index holds the keys: `bucket`, one byte, `id` and the id.
        let rows = page.items.iter().map(|id| (id.to_string(), 9 + id.as_str().len()));
        Self::list(self, "sweep: ids of configured junctions", rows, limit, false).await;
        Ok(page)
    }
}

impl JunctionStore for Metered {
    async fn load(&self, id: &IntersectionId) -> Result<Option<JunctionRow>, PortError> {
        let row = self.memory.load(id).await?;
        Self::get(self, "plan and state read", row.as_ref().map_or(0, |row| size(item::junction(row))), true).await;
        Ok(row)
    }

    async fn save(&self, row: &JunctionRow) -> Result<(), WriteError> {
        let outcome = self.memory.save(row).await;
        let what = if outcome.is_ok() { "plan and state write" } else { "plan and state write, refused" };
        Self::put(self, what, size(item::junction(row))).await;
        outcome
    }
}

impl DecisionLog for Metered {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        for record in records {
            let bytes = size(item::decision(record, i64::MAX / 1_000_000_000));
            self.meter.add("decision records, write", &prices::TABLE_WRITE, write_units(bytes));
            self.meter.add("signals: logs of changed plans", &prices::LOG_IN, PLAN_CHANGED_LOG_BYTES / GIB);
            let (id, at) = (&record.intersection_id, record.as_of);
            // One that is written again replaces itself.
            if self.memory.decisions(id, at, at.plus_millis(1), None, 1).await?.items.is_empty() {
                self.meter.add(DECISIONS_BYTES, &prices::TABLE_STORAGE, as_f64(bytes + ITEM_OVERHEAD));
            }
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(WRITE).await;
        self.memory.record(records).await
    }

    async fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> Result<Page<DecisionRecord>, PortError> {
        self.memory.decisions(id, from, to, after, limit).await
    }
}

/// The line that tells of a changed plan, and what CloudWatch adds to it: an allowance.
const PLAN_CHANGED_LOG_BYTES: f64 = 350.0;
/// Line that holds the bytes of decision records; the report makes storage of it.
pub(super) const DECISIONS_BYTES: &str = "decision records, bytes";
/// Bytes that DynamoDB stores with each item.
pub(super) const ITEM_OVERHEAD: usize = 100;

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
pub(super) const fn as_f64(number: usize) -> f64 {
    number as f64
}

impl PlanReader for Metered {
    async fn plan(&self, id: &IntersectionId) -> Result<Option<PublishedPlan>, PortError> {
        self.memory.plan(id).await
    }

    async fn plans(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<PublishedPlan>, PortError> {
        let rows = self.memory.junctions();
        let rows = rows.iter().filter(|row| after.is_none_or(|after| row.plan.intersection_id.as_str() > after));
        let rows = rows.map(|row| (row.plan.intersection_id.to_string(), size(item::junction(row))));
        Self::list(self, "plans fetched", rows, limit, false).await;
        self.memory.plans(prefix, after, limit).await
    }
}

impl ConditionStore for Metered {
    async fn load_condition(&self, key: &str) -> Result<Option<ConditionRow>, PortError> {
        let row = self.memory.load_condition(key).await?;
        Self::get(self, "condition read by its writer", row.as_ref().map_or(0, |row| size(item::condition(row))), true).await;
        Ok(row)
    }

    async fn save_condition(&self, row: &ConditionRow) -> Result<(), WriteError> {
        let outcome = self.memory.save_condition(row).await;
        let what = if outcome.is_ok() { "condition write" } else { "condition write, refused" };
        Self::put(self, what, size(item::condition(row))).await;
        outcome
    }
}

impl ConditionReader for Metered {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        // Part of an item is billed as all of it.
        let row = self.memory.load_condition(key).await?;
        Self::get(self, "condition read for signals", row.as_ref().map_or(0, |row| size(item::condition(row))), false).await;
        Ok(row.map(|row| row.condition))
    }

    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        let mut rows = Vec::new();
        for condition in self.memory.conditions(after, 2 * limit).await?.items {
            let row = self.memory.load_condition(&condition.key).await?;
            rows.push((shared::ids::sort_key(&condition.key), row.as_ref().map_or(0, |row| size(item::condition(row)))));
        }
        Self::list(self, "sweep: conditions", rows.into_iter(), limit, false).await;
        self.memory.conditions(after, limit).await
    }
}

impl AlertStore for Metered {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        for alert in alerts {
            self.meter.add("alerts write", &prices::TABLE_WRITE, write_units(size(item::alert(alert, i64::MAX / 1_000_000_000))));
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(WRITE).await;
        self.memory.put_alerts(alerts).await
    }
}

impl AlertReader for Metered {
    async fn alert(&self, id: &AlertId) -> Result<Option<Alert>, PortError> {
        self.memory.alert(id).await
    }

    async fn alerts(&self, after: Option<&str>, limit: usize) -> Result<Page<Alert>, PortError> {
        self.memory.alerts(after, limit).await
    }
}

impl EventBus for Metered {
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        for _ in events {
            self.meter.add("alert events", &prices::EVENT, 1.0);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PUBLISH).await;
        self.memory.publish(events).await
    }
}

impl ModelSource for Metered {
    async fn model(&self, kind: &AssetKind) -> Result<Option<Vec<u8>>, PortError> {
        // Without a bucket of models, nobody is asked.
        self.memory.model(kind).await
    }
}

impl Quarantine for Metered {
    async fn quarantine(&self, record: &PoisonRecord) -> Result<(), PortError> {
        self.call("quarantine", &prices::OBJECT_PUT, 1.0, PUBLISH).await;
        self.memory.quarantine(record).await
    }
}

// What the routes of operations-api have besides; nobody asks for it here.
impl AssetStore for Metered {
    async fn asset(&self, id: &AssetId) -> Result<Option<Asset>, PortError> {
        self.memory.asset(id).await
    }

    async fn put_asset(&self, expected: Option<&ETag>, asset: &Asset) -> Result<(), WriteError> {
        self.memory.put_asset(expected, asset).await
    }

    async fn assets(&self, after: Option<&AssetId>, limit: usize) -> Result<Page<Asset>, PortError> {
        self.memory.assets(after, limit).await
    }
}

impl AcknowledgementStore for Metered {
    async fn acknowledge(&self, id: &AlertId, acknowledgement: &Acknowledgement) -> Result<Acknowledgement, PortError> {
        self.memory.acknowledge(id, acknowledgement).await
    }

    async fn acknowledgements(&self, ids: &[AlertId]) -> Result<HashMap<AlertId, Acknowledgement>, PortError> {
        self.memory.acknowledgements(ids).await
    }
}
