//! Read once, decide, write once: what the workflow does when others write too, and when what is stored is strange.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

use serde_json::{Value, json};
use shared::asset::{AssetHealth, HealthState};
use shared::ids::{AssetId, AssetKind, IntersectionId};
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::ports::{Condition, ConditionRow, ConditionStore, DecisionLog, IntersectionStore, JunctionRow, JunctionStore};
use shared::units::{Deciseconds, Timestamp};
use shared::wire::{ReadingRecord, parse_reading};
use signal_adjustment::workflow::Workflow;

const LANES: [&str; 8] = ["n_0", "n_1", "s_0", "s_1", "e_0", "e_1", "w_0", "w_1"];

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_795_334_400_000 + 1000 * seconds)
}

fn record(seconds: i64, readings: Vec<Value>) -> ReadingRecord {
    let read = |value: Value| parse_reading(&serde_json::value::to_raw_value(&value).unwrap()).unwrap();
    ReadingRecord { key: "J1".into(), received_at: at(seconds), request_id: None, readings: readings.into_iter().map(read).collect() }
}

fn step(seconds: i64) -> ReadingRecord {
    let reading = |lane: &&str| {
        json!({
            "type": "detector", "intersection_id": "J1", "detector_id": lane, "time": at(seconds), "period_s": 5, "queue": seconds % 7,
        })
    };
    record(seconds, LANES.iter().map(reading).collect())
}

/// What the controller says.
fn report(seconds: i64, measures: &Value) -> ReadingRecord {
    let mut report = json!({"type": "signal_state", "intersection_id": "J1", "time": at(seconds), "mode": "adaptive"});
    report.as_object_mut().unwrap().extend(measures.as_object().unwrap().clone());
    record(seconds, vec![report])
}

async fn configured() -> (Memory, Workflow<Memory, ManualClock>) {
    let memory = Memory::new();
    let document = serde_json::from_str::<serde_json::Value>(include_str!("../../../events/intersection.json")).unwrap();
    memory.put(None, &Intersection::try_from(document).unwrap()).await.unwrap();
    let workflow = workflow(&memory);
    (memory, workflow)
}

fn workflow(memory: &Memory) -> Workflow<Memory, ManualClock> {
    Workflow::new(memory.clone(), ManualClock::at(at(0)), Deciseconds::from_secs(60))
}

async fn row(memory: &Memory) -> JunctionRow {
    memory.load(&IntersectionId::try_from("J1").unwrap()).await.unwrap().unwrap()
}

#[tokio::test]
async fn many_steps_in_one_batch_are_all_decided_and_written_once() {
    let (memory, workflow) = configured().await;
    let records: Vec<_> = (0..10).map(|n| step(5 * n)).collect();
    let tally = workflow.handle("J1", &records).await.unwrap();
    assert_eq!((tally.folded, tally.decisions, tally.held), (80, 10, 0));
    assert_eq!((row(&memory).await.version, row(&memory).await.plan.as_of), (1, at(45)));
}

#[tokio::test]
async fn what_is_known_already_is_not_written_again() {
    let (memory, workflow) = configured().await;
    workflow.handle("J1", &[step(0)]).await.unwrap();
    let before = row(&memory).await;
    let tally = workflow.handle("J1", &[step(0)]).await.unwrap();
    assert_eq!((tally.replayed, tally.decisions), (8, 0));
    assert_eq!(row(&memory).await, before);
}

#[tokio::test]
async fn a_warm_function_that_was_overtaken_decides_again_on_what_is_stored() {
    let (memory, first) = configured().await;
    let second = workflow(&memory);
    first.handle("J1", &[step(0)]).await.unwrap();
    second.handle("J1", &[step(5)]).await.unwrap();
    // The first still remembers version 1.
    first.handle("J1", &[step(10)]).await.unwrap();
    assert_eq!((row(&memory).await.version, row(&memory).await.plan.as_of), (3, at(10)));
    // And what it has not seen itself is late, not new.
    assert_eq!(first.handle("J1", &[step(5)]).await.unwrap().late, 8);
}

#[tokio::test]
async fn warm_functions_that_take_turns_refuse_each_other_once_and_then_read() {
    let (memory, first) = configured().await;
    let second = workflow(&memory);
    let mut overtaken = vec![];
    for n in 0..12 {
        let function = if n % 2 == 0 { &first } else { &second };
        overtaken.push(function.handle("J1", &[step(5 * n)]).await.unwrap().overtaken);
    }
    // The second function has nothing to remember at its first step; its next one finds what the first wrote.
    assert_eq!(overtaken, [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((row(&memory).await.version, row(&memory).await.plan.as_of), (12, at(55)));
    // One that is left alone trusts its memory again: nothing else shows that it does not read.
    for n in 12..60 {
        assert_eq!(first.handle("J1", &[step(5 * n)]).await.unwrap().overtaken, 0, "step {n}");
    }
    second.handle("J1", &[step(300)]).await.unwrap();
    assert_eq!(first.handle("J1", &[step(305)]).await.unwrap().overtaken, 1);
}

#[tokio::test]
async fn a_state_that_cannot_be_read_begins_anew_but_time_and_revision_go_on() {
    let (memory, before) = configured().await;
    before.handle("J1", &[step(0), step(5)]).await.unwrap();
    let stored = row(&memory).await;
    memory.save(&JunctionRow { version: stored.version + 1, state: vec![0xff; 40], ..stored.clone() }).await.unwrap();
    let cold = workflow(&memory);
    assert_eq!(cold.handle("J1", &[step(0)]).await.unwrap().late, 8);
    cold.handle("J1", &[step(10)]).await.unwrap();
    assert!(row(&memory).await.plan.revision > stored.plan.revision);
    assert_eq!(row(&memory).await.plan.as_of, at(10));
}

#[tokio::test]
async fn a_controller_that_refuses_its_plan_is_counted_once_a_report() {
    let (_, workflow) = configured().await;
    let mut strayed = vec![];
    for n in 0..20 {
        let refused = report(5 * n, &json!({"stage": "0", "stage_elapsed_s": 20 + 5 * n}));
        let first = workflow.handle("J1", std::slice::from_ref(&refused)).await.unwrap().strayed;
        let again = workflow.handle("J1", &[refused, step(5 * n)]).await.unwrap();
        assert_eq!((again.decisions, again.strayed), (1, 0));
        strayed.push(first);
    }
    assert!(strayed[0] == 0 && strayed.iter().sum::<u32>() >= 10 && strayed.iter().all(|&times| times <= 1), "{strayed:?}");
}

#[tokio::test]
async fn how_late_plans_are_is_told_with_the_decision_that_learns_it() {
    let (memory, workflow) = configured().await;
    let green = report(0, &json!({"stage": "0", "stage_elapsed_s": 30}));
    // Those of the north and the south are served, the others wait.
    let queues = LANES.iter().zip([0, 0, 0, 0, 9, 9, 9, 9]).map(|(lane, queue)| {
        json!({"type": "detector", "intersection_id": "J1", "detector_id": lane, "time": at(0), "period_s": 5, "queue": queue})
    });
    let first = [green, record(0, queues.collect())];
    assert_eq!(workflow.handle("J1", &first).await.unwrap().plan_latency, Deciseconds::ZERO);
    let next = row(&memory).await.plan.stages[1].clone();
    let remaining = (next.start + Deciseconds::from_secs(2)).since(at(5)).as_secs();
    let late = report(5, &json!({"stage": "0", "stage_elapsed_s": 0, "clearing_to": next.stage, "clearance_remaining_s": remaining}));
    assert_eq!(workflow.handle("J1", &[late]).await.unwrap().plan_latency, Deciseconds::from_secs(2));
}

#[tokio::test]
async fn readings_of_an_intersection_that_nobody_configured_are_counted_and_passed() {
    let memory = Memory::new();
    let tally = workflow(&memory).handle("J1", &[step(0)]).await.unwrap();
    assert_eq!(tally.unconfigured, 8);
    assert_eq!(memory.junctions(), []);
}

/// What maintenance says of one detector.
#[tokio::test]
async fn readings_of_a_junction_whose_configuration_this_version_refuses_hold_up_nobody_and_are_counted() {
    let (memory, workflow) = configured().await;
    memory.keep_outdated(&"J1".try_into().unwrap(), "{}");
    let tally = workflow.handle("J1", &[step(0)]).await.unwrap();
    assert_eq!((tally.unconfigured, tally.held, tally.decisions), (8, 1, 0));
}

async fn condition(memory: &Memory, version: u64, detector: &str, state: HealthState) {
    let health = AssetHealth {
        asset_id: AssetId::try_from(format!("J1/{detector}").as_str()).unwrap(),
        kind: AssetKind::try_from("detector").unwrap(),
        as_of: at(0),
        state,
        health_index: None,
        remaining_useful_life: None,
        reasons: vec![],
        fault: None,
        model: None,
    };
    let condition = Condition { key: "J1".into(), as_of: at(0), received_at: at(0), health: vec![health] };
    memory.save_condition(&ConditionRow { version, condition, state: vec![] }).await.unwrap();
}

#[tokio::test]
async fn a_detector_in_alarm_has_no_say_until_it_is_well_again() {
    let (memory, clock) = (configured().await.0, ManualClock::at(at(0)));
    let workflow = Workflow::new(memory.clone(), clock.clone(), Deciseconds::from_secs(60));
    let in_alarm = async || {
        let id = IntersectionId::try_from("J1").unwrap();
        let record = memory.decisions(&id, at(0), at(1_000), None, 500).await.unwrap().items.pop().unwrap();
        let named = record.distrusted.into_iter().filter(|detector| detector.reason == "in_alarm");
        named.map(|detector| detector.detector_id.to_string()).collect::<Vec<_>>()
    };
    condition(&memory, 1, "n_0", HealthState::Alarm).await;
    workflow.handle("J1", &[step(0)]).await.unwrap();
    assert_eq!(in_alarm().await, ["n_0"]);
    // The configuration and the condition are read again after a minute.
    condition(&memory, 2, "n_0", HealthState::Alert).await;
    clock.set(at(61));
    workflow.handle("J1", &(1..20).map(|n| step(5 * n)).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(in_alarm().await, [""; 0]);
}
