//! The same readings give the same plans and the same decisions, bit for bit, however the stream delivers them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use std::ops::Range;

use aws_lambda_events::event::kinesis::KinesisEvent;
use greenwave::stream::{Record, Sequence, event};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use shared::ids::IntersectionId;
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::plan::{DecisionRecord, PlanStage, PublishedPlan};
use shared::ports::{DecisionLog, IntersectionStore, JunctionRow, JunctionStore};
use shared::units::{Deciseconds, Timestamp};
use shared::wire::{ReadingRecord, parse_reading};
use signal_adjustment::workflow::Workflow;
use tests::junction::{STEP_S, at, configuration, random_step};

const SEEDS: [u64; 2] = [1, 2];
/// Steps of an hour.
const STEPS: i64 = 3600 / STEP_S;
/// Steps in which the left turns of the north and south are not seen.
const DARK: Range<i64> = 300..330;

/// An hour of one junction as it may come: lanes that fail, steps that are missing, come twice or too late.
fn hour(seed: u64) -> Vec<ReadingRecord> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut records: Vec<ReadingRecord> = Vec::new();
    let mut number = 0;
    while number < STEPS {
        let time = at(number * STEP_S);
        let mut readings = random_step("J1", time, &mut rng);
        readings.retain(|reading| !(DARK.contains(&number) && (reading["detector_id"] == "n_1" || reading["detector_id"] == "s_1")));
        records.push(record(time, &readings));
        let last = records.len() - 1;
        match rng.random_range(0..20) {
            0 | 1 => records.push(records[last].clone()),
            2 => records.push(records[last.saturating_sub(rng.random_range(1..5))].clone()),
            // Longer than a plan is valid.
            3 => number += rng.random_range(1..9),
            _ => {}
        }
        number += 1;
    }
    records
}

fn record(received_at: Timestamp, readings: &[Value]) -> ReadingRecord {
    let readings = readings.iter().map(|reading| parse_reading(&serde_json::value::to_raw_value(reading).unwrap()).unwrap());
    ReadingRecord { key: "J1".into(), received_at, request_id: None, readings: readings.collect() }
}

/// A junction and the function behind the stream.
struct Junction {
    memory: Memory,
    workflow: Workflow<Memory, ManualClock>,
}

impl Junction {
    async fn new() -> Self {
        let memory = Memory::new();
        memory.put(None, &Intersection::try_from(configuration("J1")).unwrap()).await.unwrap();
        Self { workflow: workflow(&memory), memory }
    }

    /// Loses what the function remembers.
    fn cool_down(&mut self) {
        self.workflow = workflow(&self.memory);
    }

    /// Hands over a batch as Kinesis does.
    async fn handle(&self, batch: &[ReadingRecord]) -> Step {
        let response = signal_adjustment::handle(kinesis_event(batch), &self.workflow, &self.memory).await;
        assert_eq!(response.batch_item_failures, []);
        let row = self.memory.load(&id()).await.unwrap().unwrap();
        Step::of(&row)
    }

    async fn decisions(&self) -> Vec<DecisionRecord> {
        let (from, to) = (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX));
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.memory.decisions(&id(), from, to, after, 500).await.unwrap();
            after = page.items.last().map(|record: &DecisionRecord| record.as_of);
            all.extend(page.items);
            if page.next.is_none() {
                return all;
            }
        }
    }
}

fn workflow(memory: &Memory) -> Workflow<Memory, ManualClock> {
    Workflow::new(memory.clone(), ManualClock::at(at(0)), Deciseconds::from_secs(60))
}

fn id() -> IntersectionId {
    IntersectionId::try_from("J1").unwrap()
}

fn kinesis_event(batch: &[ReadingRecord]) -> KinesisEvent {
    let record = |(number, record): (u64, &ReadingRecord)| Record {
        sequence: Sequence::new(number),
        key: record.key.clone(),
        data: record.to_bytes(),
        arrived_at: record.received_at,
    };
    let records: Vec<_> = (1..).zip(batch).map(record).collect();
    event(0, &records)
}

/// What is stored after a batch, as bytes: the plan, and the state without which no later plan could be the same.
#[derive(Debug, PartialEq)]
struct Step {
    plan: String,
    state: Vec<u8>,
}

impl Step {
    fn of(row: &JunctionRow) -> Self {
        Self { plan: serde_json::to_string(&row.plan).unwrap(), state: row.state.clone() }
    }

    fn plan(&self) -> PublishedPlan {
        serde_json::from_str(&self.plan).unwrap()
    }
}

/// Plays the records one by one.
async fn play(records: &[ReadingRecord]) -> (Vec<Step>, String) {
    let junction = Junction::new().await;
    let mut steps = Vec::new();
    for record in records {
        steps.push(junction.handle(std::slice::from_ref(record)).await);
    }
    (steps, text(&junction.decisions().await))
}

fn text(decisions: &[DecisionRecord]) -> String {
    serde_json::to_string_pretty(decisions).unwrap()
}

#[tokio::test]
async fn an_hour_is_worth_replaying() {
    for seed in SEEDS {
        let (steps, decisions) = play(&hour(seed)).await;
        let plans: Vec<_> = steps.iter().map(Step::plan).collect();
        assert!(plans.is_sorted_by(|a, b| a.as_of <= b.as_of && a.revision <= b.revision), "seed {seed}");
        assert!(plans.last().unwrap().revision > 100, "seed {seed}: {:?}", plans.last());
        for told in ["queue_pressure", "hold", "green_min", "clearing", "no_trusted_detector", "silent", "fault_reported"] {
            assert!(decisions.contains(&format!("\"{told}\"")), "seed {seed}: no decision tells of {told}");
        }
    }
}

#[tokio::test]
async fn a_replay_gives_the_same_plans_and_decisions_to_the_byte() {
    let mut hours = Vec::new();
    for seed in SEEDS {
        let records = hour(seed);
        let (first, second) = (play(&records).await, play(&records).await);
        assert!(first == second, "seed {seed}");
        hours.push(first);
    }
    assert!(hours[0] != hours[1], "two hours give the same plans");
}

#[tokio::test]
async fn batches_of_any_size_give_the_plans_of_single_records() {
    for seed in SEEDS {
        let records = hour(seed);
        let (steps, decisions) = play(&records).await;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (junction, mut done) = (Junction::new().await, 0);
        while done < records.len() {
            let end = (done + rng.random_range(1..40)).min(records.len());
            assert_eq!(junction.handle(&records[done..end]).await, steps[end - 1], "seed {seed}, records {done}..{end}");
            done = end;
        }
        assert!(text(&junction.decisions().await) == decisions, "seed {seed}");
    }
}

#[tokio::test]
async fn a_cold_function_decides_as_a_warm_one() {
    for seed in SEEDS {
        let records = hour(seed);
        let (steps, decisions) = play(&records).await;
        let mut junction = Junction::new().await;
        for (number, record) in records.iter().enumerate() {
            junction.cool_down();
            assert_eq!(junction.handle(std::slice::from_ref(record)).await, steps[number], "seed {seed}, record {number}");
        }
        assert!(text(&junction.decisions().await) == decisions, "seed {seed}");
    }
}

#[tokio::test]
async fn records_that_come_again_leave_no_trace() {
    for seed in SEEDS {
        let records = hour(seed);
        let (steps, decisions) = play(&records).await;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut junction, mut done) = (Junction::new().await, 0);
        while done < records.len() {
            // As after a failure behind them, or after a crash before the checkpoint.
            let begin = done - rng.random_range(0..=done.min(30));
            let end = (done + rng.random_range(1..10)).min(records.len());
            if rng.random_bool(0.5) {
                junction.cool_down();
            }
            assert_eq!(junction.handle(&records[begin..end]).await, steps[end - 1], "seed {seed}, records {begin}..{end}");
            done = end;
        }
        assert!(text(&junction.decisions().await) == decisions, "seed {seed}");
    }
}

#[tokio::test]
async fn a_step_that_comes_in_parts_gives_the_plan_of_the_whole() {
    for seed in SEEDS {
        let records = hour(seed);
        let (steps, _) = play(&records).await;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut junction = Junction::new().await;
        for (number, whole) in records.iter().enumerate() {
            let (first, second) = whole.readings.split_at(rng.random_range(0..=whole.readings.len()));
            let mut after = None;
            for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
                if rng.random_bool(0.5) {
                    junction.cool_down();
                }
                after = Some(junction.handle(&[ReadingRecord { readings: part.to_vec(), ..whole.clone() }]).await);
            }
            // The plan on the first part was there to be read, so it has a revision of its own.
            let course = |step: &Step| -> (Timestamp, Timestamp, Vec<PlanStage>, String) {
                let plan = step.plan();
                (plan.as_of, plan.valid_until, plan.stages, plan.reason.text)
            };
            assert_eq!(course(&after.unwrap()), course(&steps[number]), "seed {seed}, record {number}");
        }
    }
}
