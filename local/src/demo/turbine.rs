//! A gas turbine that wears out: the reference model knows its kind.
//!
//! The values are made up after those of NASA's turbofan simulation (C-MAPSS) at sea level, new and at the end of a life.

use std::f64::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use shared::units::{Deciseconds, Timestamp};

/// Id of the asset.
pub(crate) const ID: &str = "demo-turbine-1";
const KIND: &str = "turbofan";
/// A working cycle lasts this long here, and a life so many of them.
const CYCLE: Deciseconds = Deciseconds::from_secs(10);
const LIFE_CYCLES: f64 = 120.0;
/// How much faster wear is at the end of a life than at its beginning: e to this power.
const WEAR_GROWTH: f64 = 3.5;

/// Metric, value as new, value at the end of a life, noise.
const METRICS: [(&str, f64, f64, f64); 14] = [
    ("s2", 642.2, 643.6, 0.3),
    ("s3", 1585.0, 1602.0, 4.0),
    ("s4", 1400.0, 1428.0, 4.0),
    ("s7", 554.3, 551.4, 0.4),
    ("s8", 2388.05, 2388.2, 0.03),
    ("s9", 9052.0, 9062.0, 6.0),
    ("s11", 47.3, 48.25, 0.08),
    ("s12", 522.0, 519.6, 0.3),
    ("s13", 2388.05, 2388.2, 0.03),
    ("s14", 8135.0, 8143.0, 5.0),
    ("s15", 8.41, 8.54, 0.015),
    ("s17", 391.5, 396.5, 0.6),
    ("s20", 38.98, 38.35, 0.08),
    ("s21", 23.38, 23.02, 0.05),
];
/// How it is operated: at sea level, with full throttle.
const SETTINGS: [(&str, f64); 3] = [("op1", 0.0), ("op2", 0.0), ("op3", 100.0)];

pub(crate) struct Turbine {
    id: String,
    rng: ChaCha8Rng,
    cycle: u32,
    period: Deciseconds,
    next: Timestamp,
}

impl Turbine {
    pub(crate) fn new(seed: u64, start: Timestamp) -> Self {
        Self::with(ID.to_owned(), CYCLE, seed, start)
    }

    /// Another one, with a cycle of this length.
    pub(crate) fn with(id: String, period: Deciseconds, seed: u64, start: Timestamp) -> Self {
        Self { id, rng: ChaCha8Rng::seed_from_u64(seed), cycle: 0, period, next: start }
    }

    /// The document of the asset.
    pub(crate) fn document() -> Value {
        json!({"id": ID, "kind": KIND, "name": "Turbine 1 of the power station", "location": {"lat": 50.9413, "lon": 6.9583}})
    }

    /// Its newest sample, if a cycle has ended.
    pub(crate) fn reading(&mut self, now: Timestamp) -> Option<Value> {
        if now < self.next {
            return None;
        }
        self.next = now + self.period;
        self.cycle += 1;
        let wear = (WEAR_GROWTH * f64::from(self.cycle) / LIFE_CYCLES).exp_m1() / WEAR_GROWTH.exp_m1();
        let mut metrics: Map<_, _> = SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        for (name, new, end, noise) in METRICS {
            let value = new + wear.min(1.0) * (end - new) + noise * self.normal();
            metrics.insert(name.to_owned(), json!((value * 1e4).round() / 1e4));
        }
        Some(json!({"type": "telemetry", "asset_id": self.id, "asset_kind": KIND, "time": now, "cycle": self.cycle, "metrics": metrics}))
    }

    /// As good as new.
    pub(crate) fn overhaul(&mut self) {
        self.cycle = 0;
    }

    /// A draw from the standard normal distribution, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let (a, b): (f64, f64) = (self.rng.random(), self.rng.random());
        (-2.0 * (1.0 - a).ln()).sqrt() * (TAU * b).cos()
    }
}
