//! Read once, judge, write once, tell: what the workflow does under replays, failures and silence.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

use std::sync::atomic::{AtomicU32, Ordering};

use maintenance_prediction::workflow::{Told, Workflow};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::alert::CloudEvent;
use shared::asset::{AssetHealth, Fault, HealthState};
use shared::attempts::WorkflowError;
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::ports::{AlertReader, ConditionReader, ConditionRow, ConditionStore, EventBus, IntersectionStore, PortError};
use shared::units::{Deciseconds, Timestamp};
use shared::wire::{ReadingRecord, parse_reading};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_795_334_400_000 + 1000 * seconds)
}

fn record(key: &str, seconds: i64, readings: &[Value]) -> ReadingRecord {
    let parse = |value: &Value| parse_reading(&serde_json::value::to_raw_value(value).unwrap()).unwrap();
    ReadingRecord { key: key.into(), received_at: at(seconds), request_id: None, readings: readings.iter().map(parse).collect() }
}

/// What these detectors of J1 counted in the minute that ends now.
fn minute(seconds: i64, detectors: &[&str]) -> ReadingRecord {
    let reading = |detector: &&str| {
        json!({"type": "detector", "intersection_id": "J1", "detector_id": detector, "time": at(seconds), "period_s": 60,
               "volume": 4 + (seconds / 60 + i64::try_from(detector.len()).unwrap()) % 4})
    };
    record("J1", seconds, &detectors.iter().map(reading).collect::<Vec<_>>())
}

/// An hour in which `n_1` falls silent after twenty minutes and comes back after forty.
fn hour_with_a_silence() -> Vec<ReadingRecord> {
    let all = ["n_0", "n_1", "s_0"];
    let heard = |n: i64| if (20..40).contains(&n) { &["n_0", "s_0"][..] } else { &all[..] };
    (0..60).map(|n| minute(n * MINUTE, heard(n))).collect()
}

type City = Workflow<Memory, Memory, Memory, ManualClock>;

fn workflow(memory: &Memory, clock: &ManualClock) -> City {
    Workflow::new(memory.clone(), memory.clone(), memory.clone(), clock.clone(), Deciseconds::from_secs(60))
}

fn city() -> (Memory, ManualClock, City) {
    let (memory, clock) = (Memory::new(), ManualClock::at(at(0)));
    let workflow = workflow(&memory, &clock);
    (memory, clock, workflow)
}

async fn row(memory: &Memory) -> ConditionRow {
    memory.load_condition("J1").await.unwrap().unwrap()
}

async fn health(memory: &Memory, asset: &str) -> AssetHealth {
    let condition = memory.condition("J1").await.unwrap().unwrap();
    condition.health.into_iter().find(|health| health.asset_id.as_str() == asset).unwrap()
}

/// Asset, fault, whether it is over, and how often it came, of each alert.
async fn alerts(memory: &Memory) -> Vec<(String, Fault, bool, u32)> {
    let alerts = memory.alerts(None, 500).await.unwrap().items;
    alerts.into_iter().map(|alert| (alert.asset_id.to_string(), alert.fault, alert.cleared_at.is_some(), alert.occurrences)).collect()
}

#[tokio::test]
async fn a_detector_that_falls_silent_is_in_alarm_until_it_comes_back() {
    let (memory, _, workflow) = city();
    let records = hour_with_a_silence();
    workflow.handle("J1", &records[..35]).await.unwrap();
    assert_eq!(alerts(&memory).await, [("J1/n_1".to_owned(), Fault::NoData, false, 1)]);
    let silent = health(&memory, "J1/n_1").await;
    assert_eq!((silent.state, silent.fault), (HealthState::Alarm, Some(Fault::NoData)));
    assert_ne!(health(&memory, "J1/n_0").await.state, HealthState::Alarm);

    workflow.handle("J1", &records[35..]).await.unwrap();
    assert_eq!(alerts(&memory).await, [("J1/n_1".to_owned(), Fault::NoData, true, 1)]);
    assert_ne!(health(&memory, "J1/n_1").await.state, HealthState::Alarm);
    let told: Vec<_> = memory.events().iter().map(|event| event.r#type).collect();
    assert_eq!(told, ["greenwave.alert.raised", "greenwave.alert.cleared"]);
}

#[tokio::test]
async fn a_replay_changes_nothing() {
    let (memory, clock, first) = city();
    let records = hour_with_a_silence();
    first.handle("J1", &records).await.unwrap();
    let (row_before, events_before) = (row(&memory).await, memory.events().len());
    for replaying in [first, workflow(&memory, &clock)] {
        let tally = replaying.handle("J1", &records).await.unwrap();
        assert_eq!((tally.folded, tally.alerts), (0, Told::default()));
        assert_eq!((row(&memory).await, memory.events().len()), (row_before.clone(), events_before));
    }
}

#[tokio::test]
async fn who_was_overtaken_judges_again_on_what_is_stored() {
    let (memory, clock, first) = city();
    let second = workflow(&memory, &clock);
    let records = hour_with_a_silence();
    first.handle("J1", &records[..10]).await.unwrap();
    second.handle("J1", &records[10..35]).await.unwrap();
    // The first still remembers ten minutes.
    first.handle("J1", &records[35..]).await.unwrap();
    assert_eq!(alerts(&memory).await, [("J1/n_1".to_owned(), Fault::NoData, true, 1)]);
}

/// A bus that fails as often as it is told to, and then is the memory's.
struct Flaky {
    bus: Memory,
    failures: AtomicU32,
    error: PortError,
}

impl EventBus for Flaky {
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.fetch_sub(1, Ordering::Relaxed);
            return Err(self.error.clone());
        }
        self.bus.publish(events).await
    }
}

fn with_bus(error: PortError, failures: u32) -> (Memory, Workflow<Memory, Flaky, Memory, ManualClock>) {
    let memory = Memory::new();
    let bus = Flaky { bus: memory.clone(), failures: failures.into(), error };
    let workflow = Workflow::new(memory.clone(), bus, memory.clone(), ManualClock::at(at(0)), Deciseconds::from_secs(60));
    (memory, workflow)
}

#[tokio::test]
async fn what_a_failure_left_untold_is_told_when_the_readings_come_again_and_only_once() {
    let (memory, workflow) = with_bus(PortError::Unavailable("the bus", "busy".into()), 1);
    let records = &hour_with_a_silence()[..35];
    assert!(matches!(workflow.handle("J1", records).await, Err(WorkflowError::Port(_))));
    assert_eq!(memory.events(), []);
    for _ in 0..2 {
        workflow.handle("J1", records).await.unwrap();
        assert_eq!(memory.events().len(), 1);
    }
    assert_eq!(alerts(&memory).await, [("J1/n_1".to_owned(), Fault::NoData, false, 1)]);
}

#[tokio::test]
async fn an_event_that_is_refused_for_good_holds_no_reading_back() {
    let (memory, workflow) = with_bus(PortError::Unusable("the bus", "denied".into()), 1);
    workflow.handle("J1", &hour_with_a_silence()[..35]).await.unwrap();
    assert_eq!((alerts(&memory).await.len(), memory.events().len()), (1, 0));
}

#[tokio::test]
async fn a_junction_that_falls_silent_as_a_whole_is_found_by_the_sweep() {
    let (memory, clock, workflow) = city();
    let all = ["n_0", "n_1"];
    workflow.handle("J1", &(0..30).map(|n| minute(n * MINUTE, &all)).collect::<Vec<_>>()).await.unwrap();
    clock.set(at(33 * MINUTE));
    assert_eq!(workflow.sweep().await.unwrap().alerts, Told::default(), "it is too early to say");
    clock.set(at(45 * MINUTE));
    let swept = workflow.sweep().await.unwrap();
    assert_eq!(swept.alerts, Told { raised: 2, cleared: 0 });
    assert_eq!(swept.quiet, 0, "nobody configured it, so nobody is to be called");
    let silent = |over| vec![("J1/n_0".to_owned(), Fault::NoData, over, 1), ("J1/n_1".to_owned(), Fault::NoData, over, 1)];
    let mut found = alerts(&memory).await;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, silent(false));
    assert_eq!(workflow.sweep().await.unwrap().alerts, Told::default(), "a second sweep has nothing new");

    // The backlog arrives, and then what is new.
    workflow.handle("J1", &(30..75).map(|n| minute(n * MINUTE, &all)).collect::<Vec<_>>()).await.unwrap();
    let mut found = alerts(&memory).await;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, silent(true));
}

#[tokio::test]
async fn recorded_data_of_another_year_is_not_silent_because_it_is_old() {
    let (memory, clock, workflow) = city();
    let mut records: Vec<_> = (0..30).map(|n| minute(n * MINUTE, &["n_0", "n_1"])).collect();
    for record in &mut records {
        record.received_at = at(1_000 * 24 * HOUR);
    }
    clock.set(at(1_000 * 24 * HOUR + 30));
    workflow.handle("J1", &records).await.unwrap();
    assert_eq!(workflow.sweep().await.unwrap().alerts, Told::default());
    assert_eq!(alerts(&memory).await, []);
}

#[tokio::test]
async fn a_configured_junction_that_never_reports_is_missed() {
    let (memory, clock, workflow) = city();
    let document: Value = serde_json::from_str(include_str!("../../../events/intersection.json")).unwrap();
    let intersection = Intersection::try_from(document).unwrap();
    memory.put(None, &intersection).await.unwrap();
    assert_eq!(workflow.sweep().await.unwrap().unheard, 1);
    assert_eq!(alerts(&memory).await, []);
    clock.set(at(2 * HOUR));
    assert_eq!(workflow.sweep().await.unwrap().quiet, 1);
    let found = alerts(&memory).await;
    assert_eq!(found.len(), intersection.detectors().count());
    assert!(found.iter().all(|(_, fault, over, _)| *fault == Fault::NoData && !over), "{found:?}");
}

#[tokio::test]
async fn a_junction_whose_configuration_this_version_refuses_is_watched_with_the_detectors_that_it_had() {
    let (memory, clock, workflow) = city();
    let document: Value = serde_json::from_str(include_str!("../../../events/intersection.json")).unwrap();
    let intersection = Intersection::try_from(document).unwrap();
    memory.put(None, &intersection).await.unwrap();
    let lanes: Vec<_> = intersection.detectors().map(shared::ids::DetectorId::as_str).collect();
    workflow.handle("J1", &[minute(0, &lanes)]).await.unwrap();
    for id in ["J1", "J0"] {
        memory.keep_outdated(&id.try_into().unwrap(), "{}");
    }
    clock.set(at(2 * MINUTE));
    workflow.handle("J1", &(1..20).map(|n| minute(n * MINUTE, &lanes[1..])).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(alerts(&memory).await, [(format!("J1/{}", lanes[0]), Fault::NoData, false, 1)], "its readings are judged");

    clock.set(at(2 * HOUR));
    let swept = workflow.sweep().await.unwrap();
    assert_eq!((swept.quiet, swept.unheard), (2, 0), "J0 was never heard of, J1 is silent");
    assert_eq!(alerts(&memory).await.len(), lanes.len());
    assert_eq!(memory.condition("J0").await, Ok(None), "it is looked at again once it can be read");
    memory.delete(intersection.id(), &memory.tag(intersection.id()).await.unwrap().unwrap()).await.unwrap();
    assert_eq!(workflow.sweep().await.unwrap().quiet, 1);
}

#[tokio::test]
async fn a_detector_that_is_configured_no_more_is_forgotten_with_its_alert() {
    let (memory, clock, workflow) = city();
    let mut document: Value = serde_json::from_str(include_str!("../../../events/intersection.json")).unwrap();
    let configured = Intersection::try_from(document.clone()).unwrap();
    memory.put(None, &configured).await.unwrap();
    let lanes: Vec<_> = configured.detectors().map(|detector| detector.as_str().to_owned()).collect();
    let heard: Vec<_> = lanes.iter().map(String::as_str).filter(|lane| *lane != "n_0").collect();
    workflow.handle("J1", &[minute(0, &lanes.iter().map(String::as_str).collect::<Vec<_>>())]).await.unwrap();
    workflow.handle("J1", &(1..20).map(|n| minute(n * MINUTE, &heard)).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(alerts(&memory).await, [("J1/n_0".to_owned(), Fault::NoData, false, 1)]);

    // The detector is renamed.
    document["lanes"][0]["detector_id"] = json!("n_new");
    let renamed = Intersection::try_from(document).unwrap();
    memory.put(Some(&configured.etag()), &renamed).await.unwrap();
    clock.set(at(2 * MINUTE));
    workflow.handle("J1", &[minute(20 * MINUTE, &heard)]).await.unwrap();
    assert_eq!(alerts(&memory).await, [("J1/n_0".to_owned(), Fault::NoData, true, 1)]);
    let known = memory.condition("J1").await.unwrap().unwrap().health;
    assert!(known.iter().all(|health| health.asset_id.as_str() != "J1/n_0"));

    // The junction is given up, and its silence is nobody's matter.
    memory.delete(renamed.id(), &renamed.etag()).await.unwrap();
    clock.set(at(3 * HOUR));
    assert_eq!(workflow.sweep().await.unwrap().quiet, 0);
    assert_eq!(alerts(&memory).await.len(), 1);
}

#[tokio::test]
async fn a_machine_whose_kind_no_model_knows_is_unknown_and_says_so() {
    let (memory, _, workflow) = city();
    let sample =
        json!({"type": "telemetry", "asset_id": "truck-17", "asset_kind": "wheel", "time": at(0), "cycle": 1, "metrics": {"s2": 1.0}});
    workflow.handle("truck-17", &[record("truck-17", 0, &[sample])]).await.unwrap();
    let condition = memory.condition("truck-17").await.unwrap().unwrap();
    assert_eq!(condition.health[0].state, HealthState::Unknown);
    assert!(condition.health[0].reasons[0].text.contains("wheel"), "{:?}", condition.health[0].reasons);
}

/// J1 after 35 minutes of its hour, with this state in its row instead of the one that was written.
async fn with_state(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> (Memory, City) {
    let (memory, clock, before) = city();
    before.handle("J1", &hour_with_a_silence()[..35]).await.unwrap();
    let mut other = row(&memory).await;
    (other.version, other.state) = (other.version + 1, change(other.state));
    memory.save_condition(&other).await.unwrap();
    let after = workflow(&memory, &clock);
    (memory, after)
}

#[tokio::test]
async fn a_state_that_cannot_be_read_begins_anew() {
    // Of no version, of a newer one, of this one with a byte too many.
    let changes: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| vec![],
        |_| vec![0xff; 9],
        |mut state| {
            state[0] += 1;
            state
        },
        |mut state| {
            state.push(0);
            state
        },
    ];
    for change in changes {
        let (memory, workflow) = with_state(change).await;
        workflow.handle("J1", &[minute(35 * MINUTE, &["n_0", "s_0"])]).await.unwrap();
        let known = memory.condition("J1").await.unwrap().unwrap().health;
        assert!(known.iter().all(|health| health.asset_id.as_str() != "J1/n_1"), "it was read: {known:?}");
    }
}

/// Rows as versions before this one wrote them, from the same readings.
#[tokio::test]
async fn a_state_of_an_earlier_layout_goes_on_where_it_was_with_its_open_alerts() {
    let (whole, _, workflow) = city();
    workflow.handle("J1", &hour_with_a_silence()[..35]).await.unwrap();
    workflow.handle("J1", &hour_with_a_silence()[35..]).await.unwrap();
    let expected = row(&whole).await;
    for earlier in [&include_bytes!("rows/before-disbelief.state")[..], include_bytes!("rows/before-format.state")] {
        let (memory, workflow) = with_state(|_| earlier.to_vec()).await;
        workflow.handle("J1", &hour_with_a_silence()[35..]).await.unwrap();
        assert_eq!(alerts(&memory).await, [("J1/n_1".to_owned(), Fault::NoData, true, 1)]);
        let found = row(&memory).await;
        assert_eq!(found.condition, expected.condition);
        assert!(found.state == expected.state, "the states differ");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the batches, and whatever comes twice: the same condition and the same alerts.
    #[test]
    fn batches_and_duplicates_make_no_difference(cuts in prop::collection::vec(1..60_usize, 0..6), again in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let records = hour_with_a_silence();
            let (whole, _, workflow) = city();
            workflow.handle("J1", &records).await.unwrap();

            let (parts, _, workflow) = city();
            let mut ends: Vec<_> = cuts.into_iter().chain([60]).collect();
            ends.sort_unstable();
            let mut from = 0;
            for to in ends {
                workflow.handle("J1", &records[from..to]).await.unwrap();
                for index in &again {
                    let upto = index.index(to);
                    workflow.handle("J1", &records[upto / 2..upto]).await.unwrap();
                }
                from = to;
            }
            let (one, other) = (row(&whole).await, row(&parts).await);
            assert_eq!(one.condition, other.condition);
            assert!(one.state == other.state, "the states differ");
            assert_eq!(whole.alerts(None, 500).await.unwrap(), parts.alerts(None, 500).await.unwrap());
            assert_eq!(whole.events(), parts.events());
        });
    }
}
