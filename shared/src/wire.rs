//! JSON of readings, both ways: the HTTP body of a sensor and the record on the stream.
//!
//! A record is `{"v": 1, "key": ..., "received_at": ..., "readings": [...]}`; its readings have the shape in which sensors
//! send them, without unknown fields and with times in UTC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::fields::{At, Fault, Faults, Fields, Misfit, array, id, number, one_of, positive, text, time, whole, word_of};
use crate::ids::AssetId;
use crate::reading::{
    ControllerEvent, DetectorFault, DetectorReading, Position, Profile, SensorReading, SignalMode, SignalStateReading, Telemetry,
};
use crate::units::{Deciseconds, Timestamp};

/// Largest count, queue, speed or distance that a reading may carry. What lies above the possible but below this is for the
/// processors to distrust.
const LARGEST: f64 = 1e9;
const PROFILE_BINS_MAX: usize = 64;
const METRICS_MAX: usize = 256;
const DAY_S: f64 = 86_400.0;

const FAULTS: &[(&str, DetectorFault)] = &[
    ("no_activity", DetectorFault::NoActivity),
    ("max_presence", DetectorFault::MaxPresence),
    ("erratic", DetectorFault::Erratic),
    ("communication", DetectorFault::Communication),
    ("configuration", DetectorFault::Configuration),
];
const MODES: &[(&str, SignalMode)] = &[
    ("adaptive", SignalMode::Adaptive),
    ("time_of_day", SignalMode::TimeOfDay),
    ("flash", SignalMode::Flash),
    ("preempted", SignalMode::Preempted),
    ("manual", SignalMode::Manual),
];
const TYPES: &str = "detector, signal_state, controller_event, telemetry or position";

/// Reads one reading.
///
/// # Errors
/// The first [`Fault`]: `wrong_type`, `missing_field`, `out_of_range`, `invalid_id`, `invalid_time`, `unknown_type`,
/// `unknown_value`, `too_many` or `no_measure`.
pub fn parse_reading(json: &RawValue) -> Result<SensorReading, Fault> {
    let value: Value = serde_json::from_str(json.get()).map_err(|e| unrepresentable(&e))?;
    let mut faults = Faults::default();
    let reading = read(&value, &mut faults);
    match (reading, faults.into_vec().into_iter().next()) {
        (Some(reading), None) => Ok(reading),
        (_, Some(fault)) => Err(fault),
        (None, None) => Err(Fault { pointer: String::new(), code: "wrong_type", message: "is no reading".into() }),
    }
}

/// The text is valid JSON already; what fails is a number beyond f64, nesting beyond any reading, or half a surrogate pair.
fn unrepresentable(error: &serde_json::Error) -> Fault {
    let error = error.to_string();
    let (code, message) = if error.starts_with("recursion limit") {
        ("out_of_range", "is nested too deep")
    } else if error.starts_with("number out of range") {
        ("out_of_range", "has a number beyond the range of a double")
    } else {
        ("wrong_type", "has a text that is not Unicode: an escape is half of a surrogate pair")
    };
    Fault { pointer: String::new(), code, message: message.into() }
}

fn read(value: &Value, faults: &mut Faults) -> Option<SensorReading> {
    let at = At::Root;
    let mut fields = Fields::of(value, &at, faults)?;
    let kind = fields.required("type", &at, faults, text)?;
    match kind {
        "detector" => read_detector(&mut fields, faults).map(SensorReading::Detector),
        "signal_state" => read_signal_state(&mut fields, faults).map(SensorReading::SignalState),
        "controller_event" => read_controller_event(&mut fields, faults).map(SensorReading::ControllerEvent),
        "telemetry" => read_telemetry(&mut fields, faults).map(SensorReading::Telemetry),
        "position" => read_position(&mut fields, faults).map(SensorReading::Position),
        _ => {
            faults.add(&at.field("type"), "unknown_type", format!("must be {TYPES}"));
            None
        }
    }
}

fn read_detector(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<DetectorReading> {
    let at = At::Root;
    let intersection_id = fields.required("intersection_id", &at, faults, id);
    let detector_id = fields.required("detector_id", &at, faults, id);
    let time = fields.required("time", &at, faults, time);
    let period = fields.required("period_s", &at, faults, period);
    let volume = fields.optional("volume", &at, faults, number(0.0, LARGEST));
    let occupancy = fields.optional("occupancy", &at, faults, number(0.0, 1.0));
    let speed_mean_kmh = fields.optional("speed_mean_kmh", &at, faults, number(0.0, LARGEST));
    let vehicles = fields.optional("vehicles", &at, faults, number(0.0, LARGEST));
    let queue = fields.optional("queue", &at, faults, number(0.0, LARGEST));
    let profile = fields.raw("profile").and_then(|value| read_profile(value, &at.field("profile"), faults));
    let fault = fields.optional("fault", &at, faults, one_of(FAULTS));
    let numbers = [volume, occupancy, speed_mean_kmh, vehicles, queue];
    if faults.is_empty() && numbers.iter().all(Option::is_none) && profile.is_none() && fault.is_none() {
        faults.add(&at, "no_measure", "needs one of volume, occupancy, speed_mean_kmh, vehicles, queue, profile or fault");
    }
    Some(DetectorReading {
        intersection_id: intersection_id?,
        detector_id: detector_id?,
        time: time?,
        period: period?,
        volume,
        occupancy,
        speed_mean_kmh,
        vehicles,
        queue,
        profile,
        fault,
    })
}

/// A sensor's period: rounded to the tenth, because sensors measure it, but never to nothing.
fn period(value: &Value) -> Result<Deciseconds, Misfit> {
    let seconds = positive(DAY_S)(value)?;
    Deciseconds::round(seconds).map(|p| p.max(Deciseconds::new(1))).map_err(|e| ("out_of_range", e.to_string()))
}

fn read_profile(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Profile> {
    let mut fields = Fields::of(value, at, faults)?;
    let bin_m = fields.required("bin_m", at, faults, positive(1000.0));
    let vehicles = fields.required("vehicles", at, faults, array(1, PROFILE_BINS_MAX))?;
    let count = |name: &'static str, list: &[Value], faults: &mut Faults| -> Vec<f64> {
        let place = at.field(name);
        let mut counts = Vec::with_capacity(list.len());
        for (i, value) in list.iter().enumerate() {
            match number(0.0, LARGEST)(value) {
                Ok(count) => counts.push(count),
                Err((code, message)) => faults.add(&place.index(i), code, message),
            }
        }
        counts
    };
    let bins = vehicles.len();
    let same_length = array(bins, bins);
    let moving = fields.required("moving", at, faults, &same_length)?;
    let speeds = fields.optional("speed_mean_kmh", at, faults, &same_length);
    let profile = Profile {
        bin_m: bin_m?,
        vehicles: count("vehicles", vehicles, faults),
        moving: count("moving", moving, faults),
        speed_mean_kmh: speeds.map_or_else(
            || vec![None; bins],
            |speeds| {
                let place = at.field("speed_mean_kmh");
                let mut read = |(i, value): (usize, &Value)| match value {
                    Value::Null => None,
                    value => number(0.0, LARGEST)(value).map_err(|(code, message)| faults.add(&place.index(i), code, message)).ok(),
                };
                speeds.iter().enumerate().map(&mut read).collect()
            },
        ),
    };
    Some(profile)
}

fn read_signal_state(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<SignalStateReading> {
    let at = At::Root;
    let intersection_id = fields.required("intersection_id", &at, faults, id);
    let time = fields.required("time", &at, faults, time);
    let stage = fields.required("stage", &at, faults, id);
    let stage_elapsed = fields.required("stage_elapsed_s", &at, faults, elapsed);
    let clearing_to = fields.optional("clearing_to", &at, faults, id);
    let remaining = fields.optional("clearance_remaining_s", &at, faults, elapsed);
    let mode = fields.optional("mode", &at, faults, one_of(MODES)).unwrap_or(SignalMode::Adaptive);
    if clearing_to.is_some() && remaining.is_none() && faults.is_empty() {
        faults.add(&at.field("clearance_remaining_s"), "missing_field", "is required together with clearing_to");
    }
    Some(SignalStateReading {
        intersection_id: intersection_id?,
        time: time?,
        stage: stage?,
        stage_elapsed: stage_elapsed?,
        clearing: clearing_to.zip(remaining),
        mode,
    })
}

/// A measured span: rounded to the tenth; a day at most, longer ones count as a day.
fn elapsed(value: &Value) -> Result<Deciseconds, Misfit> {
    let seconds = number(0.0, LARGEST)(value)?;
    Deciseconds::round(seconds.min(DAY_S)).map_err(|e| ("out_of_range", e.to_string()))
}

fn read_controller_event(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<ControllerEvent> {
    let at = At::Root;
    let code = |value: &Value| whole(u16::MAX.into())(value).map(|n| u16::try_from(n).unwrap_or(u16::MAX));
    let parameter = |value: &Value| whole(u8::MAX.into())(value).map(|n| u8::try_from(n).unwrap_or(u8::MAX));
    let intersection_id = fields.required("intersection_id", &at, faults, id);
    let time = fields.required("time", &at, faults, time);
    let code = fields.required("code", &at, faults, code);
    let parameter = fields.required("parameter", &at, faults, parameter);
    Some(ControllerEvent { intersection_id: intersection_id?, time: time?, code: code?, parameter: parameter? })
}

fn read_telemetry(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Telemetry> {
    let at = At::Root;
    let asset_id = fields.required("asset_id", &at, faults, asset_key);
    let asset_kind = fields.required("asset_kind", &at, faults, id);
    let time = fields.required("time", &at, faults, time);
    let Sample { cycle, metrics } = read_sample(fields, &at, faults);
    Some(Telemetry { asset_id: asset_id?, asset_kind: asset_kind?, time: time?, cycle, metrics })
}

/// What a machine measured at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Its age in working cycles.
    pub cycle: Option<u64>,
    /// Finite values by metric name.
    pub metrics: BTreeMap<String, f64>,
}

/// Reads the measures of a machine, as telemetry has them; what is wrong is left out and comes with a fault.
pub fn read_sample(fields: &mut Fields<'_>, at: &At<'_>, faults: &mut Faults) -> Sample {
    let cycle = fields.optional("cycle", at, faults, whole(1 << 53));
    let metrics = fields.required("metrics", at, faults, |value| {
        let map = value.as_object().ok_or_else(|| ("wrong_type", "must be an object of numbers by metric name".to_owned()))?;
        match map.len() {
            1..=METRICS_MAX => Ok(map),
            n => Err(("out_of_range", format!("has {n} metrics; from 1 to {METRICS_MAX} are allowed"))),
        }
    });
    let place = at.field("metrics");
    let mut values = BTreeMap::new();
    for (name, value) in metrics.into_iter().flatten() {
        if !is_metric_name(name) {
            faults.add(&place.field(name), "invalid_id", "a metric name is a-z, then a-z, 0-9 and '_', at most 64 characters");
        }
        match number(f64::MIN, f64::MAX)(value) {
            Ok(number) => drop(values.insert(name.clone(), number)),
            Err((code, message)) => faults.add(&place.field(name), code, message),
        }
    }
    Sample { cycle, metrics: values }
}

/// An asset as a partition key: Kinesis takes 256 characters.
fn asset_key(value: &Value) -> Result<AssetId, Misfit> {
    let asset: AssetId = id(value)?;
    let fits = asset.as_str().len() <= 256;
    if fits { Ok(asset) } else { Err(("invalid_id", "must have at most 256 characters".into())) }
}

/// Can a reading name a metric so? a-z, then a-z, 0-9 and '_', at most 64 characters.
pub fn is_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 64
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn read_position(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Position> {
    let at = At::Root;
    let asset_id = fields.required("asset_id", &at, faults, asset_key);
    let time = fields.required("time", &at, faults, time);
    let lat = fields.required("lat", &at, faults, number(-90.0, 90.0));
    let lon = fields.required("lon", &at, faults, number(-180.0, 180.0));
    let speed_kmh = fields.optional("speed_kmh", &at, faults, number(0.0, LARGEST));
    let heading_deg = fields.optional("heading_deg", &at, faults, number(0.0, 360.0));
    let odometer_km = fields.optional("odometer_km", &at, faults, number(0.0, LARGEST));
    Some(Position { asset_id: asset_id?, time: time?, lat: lat?, lon: lon?, speed_kmh, heading_deg, odometer_km })
}

impl Serialize for SensorReading {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        to_json(self).serialize(serializer)
    }
}

/// The reading as a sensor would send it; absent measures are left out.
fn to_json(reading: &SensorReading) -> Value {
    let value = match reading {
        SensorReading::Detector(r) => json!({
            "type": "detector", "intersection_id": r.intersection_id, "detector_id": r.detector_id, "time": r.time,
            "period_s": r.period, "volume": r.volume, "occupancy": r.occupancy, "speed_mean_kmh": r.speed_mean_kmh,
            "vehicles": r.vehicles, "queue": r.queue,
            "profile": r.profile.as_ref().map(|p| json!({
                "bin_m": p.bin_m, "vehicles": p.vehicles, "moving": p.moving, "speed_mean_kmh": p.speed_mean_kmh,
            })),
            "fault": r.fault.map(|fault| word_of(FAULTS, fault)),
        }),
        SensorReading::SignalState(r) => json!({
            "type": "signal_state", "intersection_id": r.intersection_id, "time": r.time, "stage": r.stage,
            "stage_elapsed_s": r.stage_elapsed, "clearing_to": r.clearing.as_ref().map(|(stage, _)| stage),
            "clearance_remaining_s": r.clearing.as_ref().map(|(_, remaining)| remaining), "mode": word_of(MODES, r.mode),
        }),
        SensorReading::ControllerEvent(r) => json!({
            "type": "controller_event", "intersection_id": r.intersection_id, "time": r.time, "code": r.code,
            "parameter": r.parameter,
        }),
        SensorReading::Telemetry(r) => json!({
            "type": "telemetry", "asset_id": r.asset_id, "asset_kind": r.asset_kind, "time": r.time, "cycle": r.cycle,
            "metrics": r.metrics,
        }),
        SensorReading::Position(r) => json!({
            "type": "position", "asset_id": r.asset_id, "time": r.time, "lat": r.lat, "lon": r.lon, "speed_kmh": r.speed_kmh,
            "heading_deg": r.heading_deg, "odometer_km": r.odometer_km,
        }),
    };
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>()),
        other => other,
    }
}

/// The record version that this code writes and reads.
const VERSION: u32 = 1;

/// The readings of one key that came with one request.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingRecord {
    /// Intersection or asset; the partition key.
    pub key: String,
    /// When ingestion accepted them.
    pub received_at: Timestamp,
    /// The `x-request-id` of the request that brought them, for logs alone.
    pub request_id: Option<String>,
    /// The readings, ordered by their time.
    pub readings: Vec<SensorReading>,
}

/// Why bytes on the stream are no record. Sending them again cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoisonedRecord {
    /// They are no JSON of the expected shape.
    #[error("not a record: {0}")]
    Shape(String),
    /// Another version wrote them.
    #[error("record version {0} is not {VERSION}")]
    Version(u32),
    /// A reading in them is invalid.
    #[error("reading {index}: {pointer} {message}")]
    Reading {
        /// Its place in the record.
        index: usize,
        /// Where in the reading.
        pointer: String,
        /// What is wrong.
        message: String,
    },
    /// A reading belongs to another key.
    #[error("reading {index} belongs to key '{key}'")]
    ForeignKey {
        /// Its place in the record.
        index: usize,
        /// Its own key.
        key: String,
    },
}

impl ReadingRecord {
    /// The bytes for the stream.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut record = Map::new();
        record.insert("v".into(), json!(VERSION));
        record.insert("key".into(), json!(self.key));
        record.insert("received_at".into(), json!(self.received_at));
        record.extend(self.request_id.as_ref().map(|id| ("request_id".into(), json!(id))));
        record.insert("readings".into(), json!(self.readings));
        Value::Object(record).to_string().into_bytes()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`PoisonedRecord`] says what is wrong; such a record goes to the quarantine.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PoisonedRecord> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        #[derive(Deserialize)]
        struct Envelope<'a> {
            v: u32,
            key: String,
            received_at: Timestamp,
            request_id: Option<String>,
            #[serde(borrow)]
            readings: Vec<&'a RawValue>,
        }
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(|e| match serde_json::from_slice(bytes) {
            // Another version may have another shape.
            Ok(Version { v }) if v != VERSION => PoisonedRecord::Version(v),
            _ => PoisonedRecord::Shape(e.to_string()),
        })?;
        if envelope.v != VERSION {
            return Err(PoisonedRecord::Version(envelope.v));
        }
        let mut readings = Vec::with_capacity(envelope.readings.len());
        for (index, json) in envelope.readings.iter().enumerate() {
            let reading =
                parse_reading(json).map_err(|fault| PoisonedRecord::Reading { index, pointer: fault.pointer, message: fault.message })?;
            if reading.key() != envelope.key {
                return Err(PoisonedRecord::ForeignKey { index, key: reading.key().to_owned() });
            }
            readings.push(reading);
        }
        Ok(Self { key: envelope.key, received_at: envelope.received_at, request_id: envelope.request_id, readings })
    }
}

#[cfg(test)]
mod tests;
