//! Stores and a bus that fail before or after they did their work, functions that die: every fault has its one alert all the same.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use maintenance_prediction::workflow::Workflow;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::json;
use shared::alert::{Alert, CloudEvent};
use shared::ids::IntersectionId;
use shared::intersection::{ETag, Intersection};
use shared::memory::{ManualClock, Memory};
use shared::ports::{
    AlertReader, AlertStore, Condition, ConditionReader, ConditionRow, ConditionStore, EventBus, IntersectionStore, Page, PortError,
    StoredIntersection, WriteError,
};
use shared::units::{Deciseconds, Timestamp};
use shared::wire::{ReadingRecord, parse_reading};

/// One call in so many fails before its work, and one after it.
const FAILS_ONE_IN: u32 = 6;

/// A memory that fails; clones share the luck.
#[derive(Clone)]
struct Shaky {
    memory: Memory,
    luck: Arc<Mutex<TestRng>>,
}

impl Shaky {
    fn strikes(&self) -> bool {
        self.luck.lock().unwrap().next_u32().is_multiple_of(FAILS_ONE_IN)
    }

    fn maybe(&self) -> Result<(), PortError> {
        if self.strikes() { Err(PortError::Unavailable("a shaky port", "bad luck".into())) } else { Ok(()) }
    }
}

impl ConditionStore for Shaky {
    async fn load_condition(&self, key: &str) -> Result<Option<ConditionRow>, PortError> {
        self.maybe()?;
        self.memory.load_condition(key).await
    }

    async fn save_condition(&self, row: &ConditionRow) -> Result<(), WriteError> {
        self.maybe()?;
        self.memory.save_condition(row).await?;
        Ok(self.maybe()?)
    }
}

impl ConditionReader for Shaky {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        self.memory.condition(key).await
    }

    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        self.maybe()?;
        self.memory.conditions(after, limit).await
    }
}

impl AlertStore for Shaky {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        self.maybe()?;
        self.memory.put_alerts(alerts).await?;
        self.maybe()
    }
}

impl EventBus for Shaky {
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        self.maybe()?;
        self.memory.publish(events).await?;
        self.maybe()
    }
}

impl IntersectionStore for Shaky {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        self.maybe()?;
        self.memory.get(id).await
    }

    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        self.memory.tag(id).await
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        self.memory.put(expected, intersection).await
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        self.memory.delete(id, expected).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        self.memory.list(after, limit).await
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        self.maybe()?;
        self.memory.ids(prefix, after, limit).await
    }
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_millis(1_795_334_400_000 + 60_000 * minutes)
}

/// Two hours of three detectors; each falls silent in the minutes that its bits say, ten at a time.
fn records(silent: [u16; 3]) -> Vec<ReadingRecord> {
    let record = |minute: i64| {
        let heard = silent.iter().enumerate().filter(|(_, bits)| (*bits >> (minute / 10)) & 1 == 0);
        let reading = |(n, _): (usize, &u16)| {
            let value = json!({"type": "detector", "intersection_id": "J1", "detector_id": format!("d{n}"), "time": at(minute),
                "period_s": 60, "volume": 3 + (minute * 7 + i64::try_from(n).unwrap()) % 5});
            parse_reading(&serde_json::value::to_raw_value(&value).unwrap()).unwrap()
        };
        ReadingRecord { key: "J1".into(), received_at: at(minute), request_id: None, readings: heard.map(reading).collect() }
    };
    (0..120).map(record).filter(|record| !record.readings.is_empty()).collect()
}

fn first_of_each(events: Vec<CloudEvent>) -> Vec<CloudEvent> {
    let mut seen = HashSet::new();
    events.into_iter().filter(|event| seen.insert(event.id.clone())).collect()
}

async fn undisturbed(records: &[ReadingRecord]) -> Memory {
    let memory = Memory::new();
    let workflow = Workflow::new(memory.clone(), memory.clone(), memory.clone(), ManualClock::at(at(0)), Deciseconds::from_secs(60));
    workflow.handle("J1", records).await.unwrap();
    memory
}

/// Hands over batches until each has succeeded, as an event source mapping does; functions die and come back on the way.
async fn shaken(records: &[ReadingRecord], batch: usize, seed: [u8; 32]) -> Memory {
    let memory = Memory::new();
    let shaky = Shaky { memory: memory.clone(), luck: Arc::new(Mutex::new(TestRng::from_seed(RngAlgorithm::ChaCha, &seed))) };
    let clock = ManualClock::at(at(0));
    let start = || Workflow::new(shaky.clone(), shaky.clone(), memory.clone(), clock.clone(), Deciseconds::from_secs(60));
    let mut workflow = start();
    for batch in records.chunks(batch) {
        while workflow.handle("J1", batch).await.is_err() {
            if shaky.strikes() {
                workflow = start();
            }
        }
        if shaky.strikes() {
            workflow.handle("J1", batch).await.ok();
        }
    }
    // Whatever was left untold is told when anything of the key comes again.
    while workflow.handle("J1", &records[..1]).await.is_err() {}
    memory
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn failures_and_deaths_leave_the_same_conditions_alerts_and_events(
        silent in any::<[u16; 3]>(), batch in 1..40_usize, seed in any::<[u8; 32]>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // One detector at least is heard, or there is nobody to hear.
            let records = records([silent[0], silent[1], silent[2] & 0x0f0f]);
            let (calm, shaken) = (undisturbed(&records).await, shaken(&records, batch, seed).await);
            let (one, other) = (calm.load_condition("J1").await.unwrap().unwrap(), shaken.load_condition("J1").await.unwrap().unwrap());
            assert_eq!(one.condition, other.condition);
            assert!(one.state == other.state, "the states differ");
            let (one, other) = (calm.alerts(None, 500).await.unwrap().items, shaken.alerts(None, 500).await.unwrap().items);
            assert_eq!(one, other);
            assert_eq!(first_of_each(calm.events()), first_of_each(shaken.events()));

            let open: Vec<_> = other.iter().filter(|alert| alert.cleared_at.is_none()).map(|alert| (&alert.asset_id, alert.fault)).collect();
            assert_eq!(open.iter().collect::<HashSet<_>>().len(), open.len(), "two alerts of one fault are open");
        });
    }
}
