use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::fields::documented_codes;
use crate::ids::{AssetId, AssetKind, DetectorId, IntersectionId, StageId};

const DETECTOR: &str =
    r#"{"type": "detector", "intersection_id": "J1", "detector_id": "n_0", "time": "2026-11-22T08:00:05Z", "period_s": 5, "volume": 2}"#;
const SIGNAL: &str =
    r#"{"type": "signal_state", "intersection_id": "J1", "time": "2026-11-22T08:00:05Z", "stage": "0", "stage_elapsed_s": 7}"#;
const EVENT: &str = r#"{"type": "controller_event", "intersection_id": "J1", "time": "2026-11-22T08:00:05Z", "code": 82, "parameter": 5}"#;
const TELEMETRY: &str =
    r#"{"type": "telemetry", "asset_id": "J1", "asset_kind": "cabinet", "time": "2026-11-22T08:00:05Z", "metrics": {"s2": 642.35}}"#;
const POSITION: &str = r#"{"type": "position", "asset_id": "J1", "time": "2026-11-22T08:00:05Z", "lat": 50.94, "lon": 6.96}"#;
const READINGS: [&str; 5] = [DETECTOR, SIGNAL, EVENT, TELEMETRY, POSITION];

fn parse(text: &str) -> Result<SensorReading, Fault> {
    parse_reading(serde_json::from_str(text).unwrap())
}

/// The reading with another value in a field; without the field if the value is no text at all.
fn with(reading: &str, field: &str, value: &str) -> String {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(reading).unwrap();
    fields.remove(field);
    fields.extend((!value.is_empty()).then(|| (field.to_owned(), RawValue::from_string(value.to_owned()).unwrap())));
    serde_json::to_string(&fields).unwrap()
}

fn code_and_pointer<T: std::fmt::Debug>(result: Result<T, Fault>) -> (&'static str, String) {
    let fault = result.unwrap_err();
    (fault.code, fault.pointer)
}

/// A reading, one of its fields and the value put there (nothing: the field is left out); code and pointer of the refusal.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const REFUSED: &[Row] = &[
    (DETECTOR, "type", "", "missing_field", "/type"),
    (DETECTOR, "type", "null", "missing_field", "/type"),
    (DETECTOR, "type", "7", "wrong_type", "/type"),
    (DETECTOR, "type", r#""loop""#, "unknown_type", "/type"),
    (DETECTOR, "intersection_id", "", "missing_field", "/intersection_id"),
    (DETECTOR, "intersection_id", "7", "wrong_type", "/intersection_id"),
    (DETECTOR, "intersection_id", r#""J 1""#, "invalid_id", "/intersection_id"),
    (DETECTOR, "detector_id", "", "missing_field", "/detector_id"),
    (DETECTOR, "detector_id", r#""J1/n_0""#, "invalid_id", "/detector_id"),
    (DETECTOR, "time", "", "missing_field", "/time"),
    (DETECTOR, "time", "1795334405", "wrong_type", "/time"),
    (DETECTOR, "time", r#""2026-11-22T08:00:05""#, "invalid_time", "/time"),
    (DETECTOR, "period_s", "", "missing_field", "/period_s"),
    (DETECTOR, "period_s", r#""5""#, "wrong_type", "/period_s"),
    (DETECTOR, "period_s", "0", "out_of_range", "/period_s"),
    (DETECTOR, "period_s", "-5", "out_of_range", "/period_s"),
    (DETECTOR, "period_s", "86400.1", "out_of_range", "/period_s"),
    (DETECTOR, "volume", "", "no_measure", ""),
    (DETECTOR, "volume", "null", "no_measure", ""),
    (DETECTOR, "volume", "-1", "out_of_range", "/volume"),
    (DETECTOR, "volume", "1000000001", "out_of_range", "/volume"),
    (DETECTOR, "volume", "true", "wrong_type", "/volume"),
    (DETECTOR, "occupancy", "-0.01", "out_of_range", "/occupancy"),
    (DETECTOR, "occupancy", "1.01", "out_of_range", "/occupancy"),
    (DETECTOR, "occupancy", r#""0.3""#, "wrong_type", "/occupancy"),
    (DETECTOR, "speed_mean_kmh", "-0.1", "out_of_range", "/speed_mean_kmh"),
    (DETECTOR, "vehicles", "-0.1", "out_of_range", "/vehicles"),
    (DETECTOR, "queue", "-0.1", "out_of_range", "/queue"),
    (DETECTOR, "queue", "[]", "wrong_type", "/queue"),
    (DETECTOR, "fault", "1", "wrong_type", "/fault"),
    (DETECTOR, "fault", r#""broken""#, "unknown_value", "/fault"),
    (DETECTOR, "profile", "[]", "wrong_type", "/profile"),
    (DETECTOR, "profile", r#"{"vehicles": [1], "moving": [1]}"#, "missing_field", "/profile/bin_m"),
    (DETECTOR, "profile", r#"{"bin_m": 0, "vehicles": [1], "moving": [1]}"#, "out_of_range", "/profile/bin_m"),
    (DETECTOR, "profile", r#"{"bin_m": 1000.1, "vehicles": [1], "moving": [1]}"#, "out_of_range", "/profile/bin_m"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "moving": [1]}"#, "missing_field", "/profile/vehicles"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": 1, "moving": [1]}"#, "wrong_type", "/profile/vehicles"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [], "moving": []}"#, "out_of_range", "/profile/vehicles"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1, -1], "moving": [1, 1]}"#, "out_of_range", "/profile/vehicles/1"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1, null], "moving": [1, 1]}"#, "wrong_type", "/profile/vehicles/1"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1]}"#, "missing_field", "/profile/moving"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1, 1], "moving": [1]}"#, "out_of_range", "/profile/moving"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1], "moving": [1, 1]}"#, "too_many", "/profile/moving"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1], "moving": ["1"]}"#, "wrong_type", "/profile/moving/0"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1], "moving": [1], "speed_mean_kmh": []}"#, "out_of_range", "/profile/speed_mean_kmh"),
    (DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [1], "moving": [1], "speed_mean_kmh": [-1]}"#, "out_of_range", "/profile/speed_mean_kmh/0"),
    (SIGNAL, "intersection_id", "", "missing_field", "/intersection_id"),
    (SIGNAL, "time", "", "missing_field", "/time"),
    (SIGNAL, "stage", "", "missing_field", "/stage"),
    (SIGNAL, "stage", r#""""#, "invalid_id", "/stage"),
    (SIGNAL, "stage_elapsed_s", "", "missing_field", "/stage_elapsed_s"),
    (SIGNAL, "stage_elapsed_s", "-0.1", "out_of_range", "/stage_elapsed_s"),
    (SIGNAL, "stage_elapsed_s", "1000000001", "out_of_range", "/stage_elapsed_s"),
    (SIGNAL, "clearing_to", "1", "wrong_type", "/clearing_to"),
    (SIGNAL, "clearing_to", r#""1""#, "missing_field", "/clearance_remaining_s"),
    (SIGNAL, "clearance_remaining_s", "-0.1", "out_of_range", "/clearance_remaining_s"),
    (SIGNAL, "mode", "1", "wrong_type", "/mode"),
    (SIGNAL, "mode", r#""auto""#, "unknown_value", "/mode"),
    (EVENT, "intersection_id", "", "missing_field", "/intersection_id"),
    (EVENT, "time", "", "missing_field", "/time"),
    (EVENT, "code", "", "missing_field", "/code"),
    (EVENT, "code", r#""82""#, "wrong_type", "/code"),
    (EVENT, "code", "65536", "out_of_range", "/code"),
    (EVENT, "code", "82.5", "out_of_range", "/code"),
    (EVENT, "parameter", "", "missing_field", "/parameter"),
    (EVENT, "parameter", "-1", "out_of_range", "/parameter"),
    (TELEMETRY, "asset_id", "", "missing_field", "/asset_id"),
    (TELEMETRY, "asset_id", r#""J1/n_0/x""#, "invalid_id", "/asset_id"),
    (TELEMETRY, "asset_kind", "", "missing_field", "/asset_kind"),
    (TELEMETRY, "asset_kind", r#""a/b""#, "invalid_id", "/asset_kind"),
    (TELEMETRY, "time", "", "missing_field", "/time"),
    (TELEMETRY, "cycle", "-1", "out_of_range", "/cycle"),
    (TELEMETRY, "cycle", "9007199254740993", "out_of_range", "/cycle"),
    (TELEMETRY, "cycle", r#""7""#, "wrong_type", "/cycle"),
    (TELEMETRY, "metrics", "", "missing_field", "/metrics"),
    (TELEMETRY, "metrics", "[1]", "wrong_type", "/metrics"),
    (TELEMETRY, "metrics", "{}", "out_of_range", "/metrics"),
    (TELEMETRY, "metrics", r#"{"S2": 1}"#, "invalid_id", "/metrics/S2"),
    (TELEMETRY, "metrics", r#"{"a/b~c": 1}"#, "invalid_id", "/metrics/a~1b~0c"),
    (TELEMETRY, "metrics", r#"{"s2": "1"}"#, "wrong_type", "/metrics/s2"),
    (TELEMETRY, "metrics", r#"{"s2": null}"#, "wrong_type", "/metrics/s2"),
    (POSITION, "asset_id", "", "missing_field", "/asset_id"),
    (POSITION, "time", "", "missing_field", "/time"),
    (POSITION, "lat", "", "missing_field", "/lat"),
    (POSITION, "lat", "-90.1", "out_of_range", "/lat"),
    (POSITION, "lat", "90.1", "out_of_range", "/lat"),
    (POSITION, "lon", "", "missing_field", "/lon"),
    (POSITION, "lon", "180.1", "out_of_range", "/lon"),
    (POSITION, "speed_kmh", "-0.1", "out_of_range", "/speed_kmh"),
    (POSITION, "heading_deg", "360.1", "out_of_range", "/heading_deg"),
    (POSITION, "odometer_km", "-0.1", "out_of_range", "/odometer_km"),
];

#[test]
fn every_refusal_has_its_code_and_its_place() {
    assert!(READINGS.iter().all(|reading| parse(reading).is_ok()), "the table starts from readings that are accepted");
    for (reading, field, value, code, pointer) in REFUSED {
        let text = with(reading, field, value);
        assert_eq!(code_and_pointer(parse(&text)), (*code, (*pointer).to_owned()), "{text}");
    }
}

#[test]
fn a_reading_that_is_no_object_is_refused_as_a_whole() {
    for text in ["[]", "7", "null", "true", r#""detector""#] {
        assert_eq!(code_and_pointer(parse(text)), ("wrong_type", String::new()), "{text}");
    }
}

#[test]
fn json_that_no_value_can_hold_is_refused_as_a_whole_with_the_true_reason() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for (value, code, reason) in [
        ("1e400", "out_of_range", "range of a double"),
        ("-1e400", "out_of_range", "range of a double"),
        (deep.as_str(), "out_of_range", "nested too deep"),
        (r#""\ud800""#, "wrong_type", "surrogate"),
        (r#""\ud800x""#, "wrong_type", "surrogate"),
        (r#""\ud800\u0041""#, "wrong_type", "surrogate"),
        (r#""\udc00""#, "wrong_type", "surrogate"),
        (r#"{"\ud800": 1}"#, "wrong_type", "surrogate"),
    ] {
        // Also in a field that nobody reads: what cannot be represented cannot be ignored either.
        for field in ["volume", "note"] {
            let fault = parse(&with(DETECTOR, field, value)).unwrap_err();
            let shown = &value[..value.len().min(20)];
            assert_eq!((fault.code, fault.pointer.as_str()), (code, ""), "{field} {shown}");
            assert!(fault.message.contains(reason), "{shown}: {}", fault.message);
        }
    }
    assert!(parse(&with(DETECTOR, "note", r#""\ud83d\ude80""#)).is_ok(), "a whole pair is a character");
}

#[test]
fn of_many_faults_the_first_one_in_the_order_of_the_contract_is_named() {
    let text = r#"{"queue": -1, "volume": -1, "time": 7, "detector_id": "n_0", "type": "detector", "period_s": 5}"#;
    assert_eq!(code_and_pointer(parse(text)), ("missing_field", "/intersection_id".to_owned()));
}

#[test]
fn sizes_are_accepted_up_to_their_limit_and_refused_beyond() {
    let id = |n: usize| format!("\"{}\"", "x".repeat(n));
    let detector_asset = |n: usize| format!("\"{}/{}\"", "x".repeat(n), "y".repeat(127));
    let profile = |n: usize| format!(r#"{{"bin_m": 25, "vehicles": {0:?}, "moving": {0:?}}}"#, vec![1; n]);
    let metrics = |n: usize| json!((0..n).map(|i| (format!("m{i}"), i)).collect::<BTreeMap<_, _>>()).to_string();
    let name = |n: usize| json!({"m".repeat(n): 1}).to_string();
    let rows = [
        (DETECTOR, "intersection_id", id(128), id(129), "invalid_id", "/intersection_id".to_owned()),
        (DETECTOR, "detector_id", id(128), id(1_000_000), "invalid_id", "/detector_id".to_owned()),
        (TELEMETRY, "asset_id", id(128), id(129), "invalid_id", "/asset_id".to_owned()),
        (TELEMETRY, "asset_id", detector_asset(128), detector_asset(129), "invalid_id", "/asset_id".to_owned()),
        (TELEMETRY, "metrics", metrics(256), metrics(257), "out_of_range", "/metrics".to_owned()),
        (TELEMETRY, "metrics", name(64), name(65), "invalid_id", format!("/metrics/{}", "m".repeat(65))),
        (TELEMETRY, "cycle", "9007199254740992".into(), "1e17".into(), "out_of_range", "/cycle".to_owned()),
        (DETECTOR, "profile", profile(64), profile(65), "too_many", "/profile/vehicles".to_owned()),
        (DETECTOR, "period_s", "86400".into(), "86401".into(), "out_of_range", "/period_s".to_owned()),
        (DETECTOR, "volume", "1e9".into(), "1.1e9".into(), "out_of_range", "/volume".to_owned()),
        (EVENT, "code", "65535".into(), "65536".into(), "out_of_range", "/code".to_owned()),
        (EVENT, "parameter", "255".into(), "256".into(), "out_of_range", "/parameter".to_owned()),
    ];
    for (reading, field, largest, beyond, code, pointer) in rows {
        assert!(parse(&with(reading, field, &largest)).is_ok(), "{field} {}", &largest[..largest.len().min(40)]);
        assert_eq!(code_and_pointer(parse(&with(reading, field, &beyond))), (code, pointer), "{field}");
    }
}

#[test]
fn each_measure_alone_makes_a_reading_and_so_does_a_fault() {
    let bare = with(DETECTOR, "volume", "");
    for (measure, value) in [
        ("volume", "0"),
        ("occupancy", "0"),
        ("speed_mean_kmh", "0"),
        ("vehicles", "0"),
        ("queue", "0"),
        ("profile", r#"{"bin_m": 25, "vehicles": [0], "moving": [0]}"#),
        ("fault", r#""communication""#),
    ] {
        assert!(parse(&with(&bare, measure, value)).is_ok(), "{measure}");
    }
}

#[test]
fn a_null_is_an_absent_field() {
    for (reading, field) in [
        (DETECTOR, "occupancy"),
        (DETECTOR, "speed_mean_kmh"),
        (DETECTOR, "vehicles"),
        (DETECTOR, "queue"),
        (DETECTOR, "profile"),
        (DETECTOR, "fault"),
        (SIGNAL, "clearing_to"),
        (SIGNAL, "clearance_remaining_s"),
        (SIGNAL, "mode"),
        (TELEMETRY, "cycle"),
        (POSITION, "speed_kmh"),
        (POSITION, "heading_deg"),
        (POSITION, "odometer_km"),
    ] {
        assert_eq!(parse(&with(reading, field, "null")), parse(reading), "{field}");
        assert!(parse(reading).is_ok());
    }
}

#[test]
fn a_signal_state_without_a_mode_follows_the_plan_and_remaining_clearance_counts_only_with_a_next_stage() {
    let read = |text: &str| match parse(text) {
        Ok(SensorReading::SignalState(state)) => (state.mode, state.clearing.map(|(stage, left)| (stage.as_str().to_owned(), left))),
        other => panic!("{other:?}"),
    };
    assert_eq!(read(SIGNAL), (SignalMode::Adaptive, None));
    assert_eq!(read(&with(SIGNAL, "clearance_remaining_s", "3")), (SignalMode::Adaptive, None));
    let clearing = with(&with(SIGNAL, "clearance_remaining_s", "3"), "clearing_to", r#""1""#);
    let flashing = with(&clearing, "mode", r#""flash""#);
    assert_eq!(read(&flashing), (SignalMode::Flash, Some(("1".to_owned(), Deciseconds::from_secs(3)))));
}

#[test]
fn a_profile_without_speeds_knows_the_speed_of_no_bin() {
    let text = with(DETECTOR, "profile", r#"{"bin_m": 25, "vehicles": [3, 2], "moving": [0, 1], "speed_mean_kmh": null}"#);
    let Ok(SensorReading::Detector(reading)) = parse(&text) else { panic!("{text}") };
    let profile = Profile { bin_m: 25.0, vehicles: vec![3.0, 2.0], moving: vec![0.0, 1.0], speed_mean_kmh: vec![None, None] };
    assert_eq!(reading.profile, Some(profile));
}

#[test]
fn measured_spans_are_rounded_to_the_tenth_and_kept_within_a_day() {
    for (period, tenths) in [("0.01", 1), ("0.04", 1), ("4.96", 50), ("5", 50), ("86400", 864_000)] {
        let Ok(SensorReading::Detector(reading)) = parse(&with(DETECTOR, "period_s", period)) else { panic!("{period}") };
        assert_eq!(reading.period, Deciseconds::new(tenths), "{period}");
    }
    for (elapsed, tenths) in [("0", 0), ("0.04", 0), ("7.06", 71), ("86400.4", 864_000), ("1e9", 864_000)] {
        let Ok(SensorReading::SignalState(reading)) = parse(&with(SIGNAL, "stage_elapsed_s", elapsed)) else { panic!("{elapsed}") };
        assert_eq!(reading.stage_elapsed, Deciseconds::new(tenths), "{elapsed}");
    }
}

#[test]
fn unknown_fields_are_ignored() {
    for reading in READINGS {
        for value in ["1", r#""x""#, "null", r#"{"type": "detector", "deep": [{}]}"#] {
            assert_eq!(parse(&with(reading, "vendor", value)), parse(reading), "{reading}");
        }
    }
    let odd = r#"{"bin_m": 25, "vehicles": [1], "moving": [1], "vendor": 1}"#;
    assert!(parse(&with(DETECTOR, "profile", odd)).is_ok());
}

#[test]
fn the_codes_of_readings_are_the_documented_ones() {
    let mut codes: BTreeSet<_> = REFUSED.iter().map(|(_, _, _, code, _)| *code).collect();
    // Ingestion gives these.
    codes.extend(["foreign_key", "too_old", "in_future", "stream_unavailable"]);
    assert_eq!(codes, documented_codes("Of a reading:", "Of a configuration:"));
}

fn id<T: for<'a> TryFrom<&'a str> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[A-Za-z0-9][A-Za-z0-9._:#-]{0,9}".prop_map(|text| T::try_from(text.as_str()).ok().unwrap())
}

fn asset_id() -> impl Strategy<Value = AssetId> {
    "[A-Za-z0-9][A-Za-z0-9._:#-]{0,9}(/[A-Za-z0-9][A-Za-z0-9._:#-]{0,9})?".prop_map(|text| AssetId::try_from(text.as_str()).unwrap())
}

fn instant() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_millis).boxed().prop_union((0..4_102_444_800_000_i64).prop_map(Timestamp::from_millis).boxed())
}

fn span(from: u32) -> impl Strategy<Value = Deciseconds> {
    (from..=864_000).prop_map(Deciseconds::new)
}

fn finite() -> impl Strategy<Value = f64> {
    use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    NORMAL | SUBNORMAL | ZERO | POSITIVE | NEGATIVE
}

fn profile() -> impl Strategy<Value = Profile> {
    (0.001..=1000.0, vec((0.0..=LARGEST, 0.0..=LARGEST, option::of(0.0..=LARGEST)), 1..=PROFILE_BINS_MAX)).prop_map(|(bin_m, bins)| {
        Profile {
            bin_m,
            vehicles: bins.iter().map(|bin| bin.0).collect(),
            moving: bins.iter().map(|bin| bin.1).collect(),
            speed_mean_kmh: bins.iter().map(|bin| bin.2).collect(),
        }
    })
}

fn detector_reading() -> impl Strategy<Value = SensorReading> {
    let count = || option::of(0.0..=LARGEST);
    let measures = (count(), option::of(0.0..=1.0), count(), count(), count(), option::of(profile()));
    let fault = option::of(proptest::sample::select(FAULTS).prop_map(|(_, fault)| fault));
    (id::<IntersectionId>(), id::<DetectorId>(), instant(), span(1), measures, fault)
        .prop_map(|(intersection_id, detector_id, time, period, (volume, occupancy, speed_mean_kmh, vehicles, queue, profile), fault)| {
            DetectorReading {
                intersection_id,
                detector_id,
                time,
                period,
                volume,
                occupancy,
                speed_mean_kmh,
                vehicles,
                queue,
                profile,
                fault,
            }
        })
        .prop_filter("needs a measure", |r| {
            let numbers = [r.volume, r.occupancy, r.speed_mean_kmh, r.vehicles, r.queue];
            numbers.iter().any(Option::is_some) || r.profile.is_some() || r.fault.is_some()
        })
        .prop_map(SensorReading::Detector)
}

fn reading() -> impl Strategy<Value = SensorReading> {
    let mode = proptest::sample::select(MODES).prop_map(|(_, mode)| mode);
    let signal_state = (id::<IntersectionId>(), instant(), id::<StageId>(), span(0), option::of((id::<StageId>(), span(0))), mode);
    let event = (id::<IntersectionId>(), instant(), any::<u16>(), any::<u8>());
    let metrics = btree_map("[a-z][a-z0-9_]{0,63}", finite(), 1..8);
    let telemetry = (asset_id(), id::<AssetKind>(), instant(), option::of(0..=1_u64 << 53), metrics);
    let measure = || option::of(0.0..=LARGEST);
    let position = (asset_id(), instant(), -90.0..=90.0, -180.0..=180.0, measure(), option::of(0.0..=360.0), measure());
    prop_oneof![
        detector_reading(),
        signal_state.prop_map(|(intersection_id, time, stage, stage_elapsed, clearing, mode)| {
            SensorReading::SignalState(SignalStateReading { intersection_id, time, stage, stage_elapsed, clearing, mode })
        }),
        event.prop_map(|(intersection_id, time, code, parameter)| {
            SensorReading::ControllerEvent(ControllerEvent { intersection_id, time, code, parameter })
        }),
        telemetry.prop_map(|(asset_id, asset_kind, time, cycle, metrics)| {
            SensorReading::Telemetry(Telemetry { asset_id, asset_kind, time, cycle, metrics })
        }),
        position.prop_map(|(asset_id, time, lat, lon, speed_kmh, heading_deg, odometer_km)| {
            SensorReading::Position(Position { asset_id, time, lat, lon, speed_kmh, heading_deg, odometer_km })
        }),
    ]
}

/// Any JSON, rich in the names and values that readings use.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![proptest::sample::select(vec![
        "detector",
        "signal_state",
        "telemetry",
        "J1",
        "2026-11-22T08:00:05Z",
        "flash",
        "",
        "\0",
        "é/~"
    ]),];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        word.prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    let name =
        proptest::sample::select(vec!["type", "time", "profile", "vehicles", "moving", "bin_m", "metrics", "s2", "S 2", "a/b~c", ""]);
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((name.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_valid_reading_comes_back_from_its_json_as_it_was(reading in reading()) {
        let text = serde_json::to_string(&reading).unwrap();
        prop_assert_eq!(parse(&text), Ok(reading), "{}", text);
    }

    #[test]
    fn any_json_is_a_reading_or_a_fault_with_a_place(value in any_json()) {
        if let Err(fault) = parse(&value.to_string()) {
            prop_assert!(is_place_of(&value, &fault), "{:?}", fault);
        }
    }

    #[test]
    fn a_reading_with_any_json_in_one_field_is_read_or_refused_with_a_place(
        reading in reading(), field in any::<prop::sample::Index>(), value in any_json()
    ) {
        let mut document = serde_json::to_value(&reading).unwrap();
        let fields = document.as_object_mut().unwrap();
        let name = fields.keys().nth(field.index(fields.len())).unwrap().clone();
        fields.insert(name, value);
        if let Err(fault) = parse(&document.to_string()) {
            prop_assert!(is_place_of(&document, &fault), "{:?}", fault);
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_poison(bytes in vec(any::<u8>(), 0..64), cut in any::<prop::sample::Index>()) {
        let _ = ReadingRecord::from_bytes(&bytes);
        let whole = golden().to_bytes();
        prop_assert!(ReadingRecord::from_bytes(&whole[..cut.index(whole.len())]).is_err(), "a part of a record is none");
    }

    #[test]
    fn any_record_comes_back_from_its_bytes_as_it_was(
        readings in vec(reading(), 1..8), received_at in instant(), request_id in proptest::option::of("[!-~]{1,128}"),
    ) {
        let key = readings[0].key().to_owned();
        let readings: Vec<_> = readings.into_iter().filter(|reading| reading.key() == key).collect();
        let record = ReadingRecord { key, received_at, request_id, readings };
        prop_assert_eq!(ReadingRecord::from_bytes(&record.to_bytes()), Ok(record));
    }
}

/// Whether the pointer names a value of the document or a field that is missing in an object of it.
fn is_place_of(document: &Value, fault: &Fault) -> bool {
    let parent = fault.pointer.rsplit_once('/').map(|(parent, _)| parent);
    document.pointer(&fault.pointer).is_some() || parent.and_then(|parent| document.pointer(parent)).is_some_and(Value::is_object)
}

/// One record with a reading of every type.
fn golden() -> ReadingRecord {
    let full = r#"{"type": "detector", "intersection_id": "J1", "detector_id": "n_0", "time": "2026-11-22T09:00:05.5+01:00", "period_s": 5,
        "volume": 2, "occupancy": 0.31, "speed_mean_kmh": 21.5, "vehicles": 6, "queue": 4, "fault": "max_presence", "vendor": {"x": 1},
        "profile": {"bin_m": 25, "vehicles": [3, 2], "moving": [0, 1], "speed_mean_kmh": [null, 18]}}"#;
    let clearing = with(&with(SIGNAL, "clearance_remaining_s", "3"), "clearing_to", r#""1""#);
    let readings = [full, &with(&clearing, "mode", r#""time_of_day""#), EVENT, &with(TELEMETRY, "cycle", "113"), POSITION];
    ReadingRecord {
        key: "J1".into(),
        received_at: Timestamp::parse("2026-11-22T08:00:05.123Z").unwrap(),
        request_id: None,
        readings: readings.map(|text| parse(text).unwrap()).into(),
    }
}

/// The bytes of [`golden`], less the line ends. Records like these lie on streams and in quarantines: a change here needs a new
/// version, and [`ReadingRecord::from_bytes`] must still read this one.
const VERSION_1: &str = concat!(
    r#"{"key":"J1","readings":["#,
    r#"{"detector_id":"n_0","fault":"max_presence","intersection_id":"J1","occupancy":0.31,"period_s":5.0,"#,
    r#""profile":{"bin_m":25.0,"moving":[0.0,1.0],"speed_mean_kmh":[null,18.0],"vehicles":[3.0,2.0]},"#,
    r#""queue":4.0,"speed_mean_kmh":21.5,"time":"2026-11-22T08:00:05.500Z","type":"detector","vehicles":6.0,"volume":2.0},"#,
    r#"{"clearance_remaining_s":3.0,"clearing_to":"1","intersection_id":"J1","mode":"time_of_day","stage":"0","stage_elapsed_s":7.0,"#,
    r#""time":"2026-11-22T08:00:05.000Z","type":"signal_state"},"#,
    r#"{"code":82,"intersection_id":"J1","parameter":5,"time":"2026-11-22T08:00:05.000Z","type":"controller_event"},"#,
    r#"{"asset_id":"J1","asset_kind":"cabinet","cycle":113,"metrics":{"s2":642.35},"time":"2026-11-22T08:00:05.000Z","type":"telemetry"},"#,
    r#"{"asset_id":"J1","lat":50.94,"lon":6.96,"time":"2026-11-22T08:00:05.000Z","type":"position"}"#,
    r#"],"received_at":"2026-11-22T08:00:05.123Z","v":1}"#,
);

#[test]
fn a_record_of_version_1_is_written_and_read_as_ever() {
    assert_eq!(String::from_utf8(golden().to_bytes()).unwrap(), VERSION_1);
    assert_eq!(ReadingRecord::from_bytes(VERSION_1.as_bytes()), Ok(golden()));
}

#[test]
fn poison_tells_what_is_wrong_with_it() {
    let record = |key: &str, readings: &str| {
        format!(r#"{{"v": 1, "key": "{key}", "received_at": "2026-11-22T08:00:05Z", "readings": [{readings}]}}"#)
    };
    let early = with(DETECTOR, "time", "0");
    let other = with(DETECTOR, "intersection_id", r#""J2""#);
    let whole = record("J1", DETECTOR);
    assert!(ReadingRecord::from_bytes(whole.as_bytes()).is_ok());
    for (text, poison, reason) in [
        (whole.replace("1,", "2,"), PoisonedRecord::Version(2), "record version 2 is not 1"),
        (r#"{"v": 7, "body": "of another shape"}"#.to_owned(), PoisonedRecord::Version(7), "record version 7 is not 1"),
        (
            record("J1", &format!("{DETECTOR}, {early}")),
            PoisonedRecord::Reading { index: 1, pointer: "/time".into(), message: "must be a text".into() },
            "reading 1: /time must be a text",
        ),
        (
            record("J1", &format!("{DETECTOR}, {EVENT}, {other}")),
            PoisonedRecord::ForeignKey { index: 2, key: "J2".into() },
            "reading 2 belongs to key 'J2'",
        ),
    ] {
        let error = ReadingRecord::from_bytes(text.as_bytes()).unwrap_err();
        assert_eq!((error.to_string().as_str(), &error), (reason, &poison), "{text}");
    }
}

#[test]
fn bytes_of_another_shape_are_poison() {
    let whole = VERSION_1.as_bytes();
    let changed = |from: &str, to: &str| VERSION_1.replacen(from, to, 1).into_bytes();
    for bytes in [
        b"".to_vec(),
        b"{".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        b"\xff".to_vec(),
        [whole, b" x"].concat(),
        changed(r#""v":1"#, r#""v":-1"#),
        changed(r#","v":1"#, ""),
        changed(r#""key":"J1""#, r#""key":1"#),
        changed(r#""key":"J1","#, ""),
        changed("2026-11-22T08:00:05.123Z", "yesterday"),
        br#"{"v":1,"key":"J1","received_at":"2026-11-22T08:00:05Z","readings":{}}"#.to_vec(),
    ] {
        let error = ReadingRecord::from_bytes(&bytes).unwrap_err();
        assert!(matches!(error, PoisonedRecord::Shape(_)), "{error:?}: {}", String::from_utf8_lossy(&bytes));
    }
}
