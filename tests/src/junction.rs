//! The junction of `events/intersection.json` and what its sensors say.

use rand::{Rng, RngExt};
use serde_json::{Value, json};
use shared::units::Timestamp;

/// Lanes of the junction, which are also the ids of their detectors.
pub const LANES: [&str; 8] = ["n_0", "n_1", "s_0", "s_1", "e_0", "e_1", "w_0", "w_1"];

/// Time between two steps, s.
pub const STEP_S: i64 = 5;

/// The junction's configuration under an id.
///
/// # Panics
/// If the sample is no JSON.
pub fn configuration(id: &str) -> Value {
    let mut document: Value = serde_json::from_str(include_str!("../../events/intersection.json")).unwrap();
    document["id"] = json!(id);
    document
}

/// The junction's configuration under an id, in a control mode.
pub fn configuration_in_mode(id: &str, mode: &str) -> Value {
    let mut document = configuration(id);
    document["control"]["mode"] = json!(mode);
    document
}

/// So many seconds after the morning of the samples began.
pub fn at(seconds: i64) -> Timestamp {
    // 2026-11-22T08:00:00Z
    Timestamp::from_millis(1_795_334_400_000 + 1000 * seconds)
}

/// What the detector of a lane says: so many vehicles stand before it.
pub fn detector(id: &str, lane: &str, at: Timestamp, queue: f64) -> Value {
    json!({
        "type": "detector", "intersection_id": id, "detector_id": lane, "time": at, "period_s": STEP_S,
        "volume": 1, "occupancy": 0.25, "vehicles": queue + 1.0, "queue": queue,
    })
}

/// The controller says that a stage has been green for so long.
pub fn signal_state(id: &str, at: Timestamp, stage: &str, elapsed_s: f64) -> Value {
    json!({"type": "signal_state", "intersection_id": id, "time": at, "stage": stage, "stage_elapsed_s": elapsed_s, "mode": "adaptive"})
}

/// One step: what all lanes say, with these queues in the order of [`LANES`].
pub fn step(id: &str, at: Timestamp, queues: [f64; 8]) -> Vec<Value> {
    LANES.iter().zip(queues).map(|(lane, queue)| detector(id, lane, at, queue)).collect()
}

/// One step as it may come: some lanes missing or at fault, any queues, now and then with the signal's state.
pub fn random_step(id: &str, at: Timestamp, rng: &mut impl Rng) -> Vec<Value> {
    let mut readings: Vec<_> = LANES.iter().map(|lane| detector(id, lane, at, f64::from(rng.random_range(0..24_u8)) / 2.0)).collect();
    for reading in &mut readings {
        if rng.random_bool(0.01) {
            reading["fault"] = json!("communication");
        } else if rng.random_bool(0.1) {
            // A detector that only counts.
            reading["queue"] = Value::Null;
            reading["vehicles"] = Value::Null;
            reading["occupancy"] = Value::Null;
        }
    }
    readings.retain(|_| rng.random_bool(0.95));
    if readings.is_empty() || rng.random_bool(0.2) {
        let elapsed_s = f64::from(rng.random_range(0..400_u16)) / 10.0;
        readings.push(signal_state(id, at, ["0", "1", "2", "3"][rng.random_range(0..4)], elapsed_s));
    }
    readings
}
