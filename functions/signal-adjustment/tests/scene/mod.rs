//! The junction of `events/intersection.json`, what its detectors and its controller report, and what is decided.

use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::plan::PublishedPlan;
use shared::reading::SensorReading;
use shared::units::Timestamp;
use shared::wire::parse_reading;
use signal_adjustment::control::{Decision, Inputs};
use signal_adjustment::junction::Junction;

pub(crate) const LANES: [&str; 8] = ["n_0", "n_1", "s_0", "s_1", "e_0", "e_1", "w_0", "w_1"];

pub(crate) fn intersection(change: impl FnOnce(&mut Value)) -> Intersection {
    let mut document: Value = serde_json::from_str(include_str!("../../../../events/intersection.json")).unwrap();
    change(&mut document);
    Intersection::try_from(document).unwrap()
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    // 2026-11-22T08:00:00Z
    Timestamp::from_millis(1_795_334_400_000 + 1000 * seconds)
}

pub(crate) fn reading(value: &Value) -> SensorReading {
    parse_reading(&serde_json::value::to_raw_value(value).unwrap()).unwrap()
}

pub(crate) fn detector(lane: &str, seconds: i64, measures: &Value) -> SensorReading {
    let mut value = json!({"type": "detector", "intersection_id": "J1", "detector_id": lane, "time": at(seconds), "period_s": 5});
    value.as_object_mut().unwrap().extend(measures.as_object().unwrap().clone());
    reading(&value)
}

pub(crate) fn signal(stage: &str, elapsed: f64, seconds: i64, mode: &str) -> SensorReading {
    reading(&json!({
        "type": "signal_state", "intersection_id": "J1", "time": at(seconds), "stage": stage, "stage_elapsed_s": elapsed, "mode": mode,
    }))
}

/// One step: the signal, and a queue on each lane.
pub(crate) fn step(stage: &str, elapsed: f64, seconds: i64, queues: [u32; 8]) -> Vec<SensorReading> {
    let mut readings = vec![signal(stage, elapsed, seconds, "adaptive")];
    readings.extend(LANES.iter().zip(queues).map(|(lane, queue)| detector(lane, seconds, &json!({"queue": queue}))));
    readings
}

pub(crate) fn decide(
    junction: &mut Junction,
    intersection: &Intersection,
    readings: &[SensorReading],
) -> (Inputs, Decision, PublishedPlan) {
    for reading in readings {
        let _ = junction.fold(intersection, reading);
    }
    let (inputs, decision, plan) = junction.decide(intersection);
    (inputs, decision, plan.unwrap())
}

pub(crate) fn first(intersection: &Intersection, readings: &[SensorReading]) -> (Inputs, Decision, PublishedPlan) {
    decide(&mut Junction::unknown(intersection), intersection, readings)
}
