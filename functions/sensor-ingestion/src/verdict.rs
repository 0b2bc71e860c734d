//! The verdict on one reading: valid, or why not.

use serde::Serialize;
use serde_json::value::RawValue;
use shared::fields::Fault;
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::parse_reading;

/// Which times are taken, seen from the clock. `None` leaves that side open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How old a reading may be.
    pub oldest: Option<Deciseconds>,
    /// How far ahead of the clock a reading may be.
    pub furthest_ahead: Option<Deciseconds>,
}

impl Config {
    /// Takes every time, so that recorded data can be replayed.
    pub const OPEN: Self = Self { oldest: None, furthest_ahead: None };
}

/// A day back, the longest a gateway buffers; half a minute ahead, more than any synchronised clock is off.
impl Default for Config {
    fn default() -> Self {
        Self { oldest: Some(Deciseconds::from_secs(86_400)), furthest_ahead: Some(Deciseconds::from_secs(30)) }
    }
}

/// A reading that is not on the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Its place in the request.
    pub index: usize,
    /// Stable code.
    pub code: &'static str,
    /// What would be right, or what to do.
    pub message: String,
    /// JSON pointer to the fault within the reading, if it is the reading's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

impl Rejection {
    fn invalid(index: usize, fault: Fault) -> Self {
        Self { index, code: fault.code, message: fault.message, pointer: Some(fault.pointer) }
    }

    /// The reading is valid, but it may not be on the stream.
    pub fn unavailable(index: usize) -> Self {
        Self { index, code: "stream_unavailable", message: "is not on the stream; send it again".into(), pointer: None }
    }
}

/// Checks each reading; valid ones keep their place in the request. With a key, all others' are refused.
pub fn check(readings: &[&RawValue], key: Option<&str>, now: Timestamp, config: Config) -> (Vec<(usize, SensorReading)>, Vec<Rejection>) {
    let (mut valid, mut rejected) = (Vec::with_capacity(readings.len()), Vec::new());
    for (index, json) in readings.iter().enumerate() {
        match parse_reading(json).and_then(|reading| of_key(reading, key)).and_then(|reading| in_window(reading, now, config)) {
            Ok(reading) => valid.push((index, reading)),
            Err(fault) => rejected.push(Rejection::invalid(index, fault)),
        }
    }
    (valid, rejected)
}

/// A detector is its intersection's, also where it is an asset.
fn of_key(reading: SensorReading, key: Option<&str>) -> Result<SensorReading, Fault> {
    let Some(key) = key else { return Ok(reading) };
    let own = reading.key().strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let pointer =
        if matches!(reading, SensorReading::Telemetry(_) | SensorReading::Position(_)) { "/asset_id" } else { "/intersection_id" };
    if own {
        Ok(reading)
    } else {
        Err(Fault { pointer: pointer.into(), code: "foreign_key", message: format!("must be {key}, as the path") })
    }
}

fn in_window(reading: SensorReading, now: Timestamp, config: Config) -> Result<SensorReading, Fault> {
    let refuse = |code, message| Err(Fault { pointer: "/time".into(), code, message });
    let time = reading.time();
    if let Some(first) = config.oldest.map(|oldest| now - oldest)
        && time < first
    {
        return refuse("too_old", format!("must not be before {first}"));
    }
    if let Some(last) = config.furthest_ahead.map(|ahead| now + ahead)
        && time > last
    {
        return refuse("in_future", format!("must not be after {last}; check the clock of the sensor"));
    }
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T08:00:00Z";

    fn codes(config: Config, times: &[&str]) -> Vec<(usize, &'static str)> {
        let texts: Vec<_> = times
            .iter()
            .map(|time| format!(r#"{{"type":"controller_event","intersection_id":"J1","time":"{time}","code":82,"parameter":5}}"#))
            .map(|text| RawValue::from_string(text).unwrap())
            .collect();
        let readings: Vec<&RawValue> = texts.iter().map(AsRef::as_ref).collect();
        let (valid, rejected) = check(&readings, None, Timestamp::parse(NOW).unwrap(), config);
        assert_eq!(valid.len() + rejected.len(), times.len());
        rejected.into_iter().map(|r| (r.index, r.code)).collect()
    }

    #[test]
    fn a_reading_is_taken_up_to_both_borders_of_the_window_and_not_a_millisecond_beyond() {
        let inside = ["2026-11-21T08:00:00Z", NOW, "2026-11-22T08:00:30Z"];
        assert_eq!(codes(Config::default(), &inside), []);
        let outside = ["2026-11-21T07:59:59.999Z", "2026-11-22T08:00:30.001Z"];
        assert_eq!(codes(Config::default(), &outside), [(0, "too_old"), (1, "in_future")]);
    }

    #[test]
    fn an_open_window_takes_every_time() {
        assert_eq!(codes(Config::OPEN, &["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"]), []);
    }
}
