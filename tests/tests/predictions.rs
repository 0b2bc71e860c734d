//! The stream and `POST /v1/predictions` say the same of the same samples, to the last bit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use maintenance_prediction::workflow::Workflow;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use shared::memory::{ManualClock, Memory};
use shared::ports::ConditionReader;
use shared::units::Deciseconds;
use shared::wire::{ReadingRecord, parse_reading};
use tests::junction::at;
use tower::ServiceExt;

/// Metric, value as new, change over a life, noise: a turbofan at sea level.
const METRICS: [(&str, f64, f64, f64); 14] = [
    ("s2", 642.2, 1.4, 0.3),
    ("s3", 1585.0, 17.0, 4.0),
    ("s4", 1400.0, 28.0, 4.0),
    ("s7", 554.3, -2.9, 0.4),
    ("s8", 2388.05, 0.15, 0.03),
    ("s9", 9052.0, 10.0, 6.0),
    ("s11", 47.3, 0.95, 0.08),
    ("s12", 522.0, -2.4, 0.3),
    ("s13", 2388.05, 0.15, 0.03),
    ("s14", 8135.0, 8.0, 5.0),
    ("s15", 8.41, 0.13, 0.015),
    ("s17", 391.5, 5.0, 0.6),
    ("s20", 38.98, -0.63, 0.08),
    ("s21", 23.38, -0.36, 0.05),
];

/// The samples of a life, cut somewhere: with gaps, repeated cycles, missing metrics and, now and then, a new beginning.
fn life(rng: &mut ChaCha8Rng) -> Vec<Value> {
    let (cycles, end) = (rng.random_range(3..260), rng.random_range(140..320));
    let (mut samples, mut cycle) = (Vec::new(), 0);
    for _ in 0..cycles {
        cycle = match rng.random_range(0..400) {
            0 => 1,
            1..4 => cycle,
            4..8 => cycle + rng.random_range(2..6),
            _ => cycle + 1,
        };
        let wear = (f64::from(cycle) / f64::from(end)).powi(4).min(1.0);
        let mut metrics: Map<_, _> =
            [("op1", 0.0), ("op2", 0.0), ("op3", 100.0)].map(|(name, value)| (name.to_owned(), json!(value))).into_iter().collect();
        for (name, new, change, noise) in METRICS {
            if rng.random_range(0..300) > 0 {
                metrics.insert(name.to_owned(), json!(new + wear * change + noise * (rng.random::<f64>() * 4.0 - 2.0)));
            }
        }
        samples.push(json!({"cycle": cycle, "metrics": metrics}));
    }
    samples
}

async fn predicted(api: &Router, samples: &[Value]) -> Value {
    let body = json!({"asset_kind": "turbofan", "samples": samples}).to_string();
    let request = Request::post("/v1/predictions").header("content-type", "application/json").body(Body::from(body)).unwrap();
    let answer = api.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    serde_json::from_slice(&to_bytes(answer.into_body(), usize::MAX).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_hundred_machines_are_judged_alike_by_the_stream_and_by_the_service() {
    let (memory, clock) = (Memory::new(), ManualClock::at(at(0)));
    let api = operations_api::router(memory.clone(), clock.clone(), memory.clone(), memory.clone());
    let workflow = Workflow::new(memory.clone(), memory.clone(), memory.clone(), clock, Deciseconds::from_secs(60));
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let mut known = 0;
    for unit in 0..100 {
        let (id, samples) = (format!("engine-{unit}"), life(&mut rng));
        let reading = |(n, sample): (usize, &Value)| {
            let mut reading =
                json!({"type": "telemetry", "asset_id": id, "asset_kind": "turbofan", "time": at(60 * i64::try_from(n).unwrap())});
            reading.as_object_mut().unwrap().extend(sample.as_object().unwrap().clone());
            parse_reading(&serde_json::value::to_raw_value(&reading).unwrap()).unwrap()
        };
        let readings: Vec<_> = samples.iter().enumerate().map(reading).collect();
        for part in readings.chunks(rng.random_range(1..80)) {
            let record = ReadingRecord { key: id.clone(), received_at: at(0), request_id: None, readings: part.to_vec() };
            // What is on the stream is what was encoded.
            let record = ReadingRecord::from_bytes(&record.to_bytes()).unwrap();
            workflow.handle(&id, &[record]).await.unwrap();
        }
        let health = json!(memory.condition(&id).await.unwrap().unwrap().health[0]);
        let answer = predicted(&api, &samples).await;
        for field in ["state", "health_index", "remaining_useful_life", "reasons", "model"] {
            assert_eq!(health[field], answer[field], "{field} of unit {unit} of seed 42, {} samples", samples.len());
        }
        known += usize::from(answer["remaining_useful_life"] != Value::Null);
    }
    assert!(known > 60, "only {known} of 100 machines were judged");
}
