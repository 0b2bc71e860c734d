//! Every answer of `POST /v1/readings`, checked against `openapi.yaml`.

use std::io::Write;
use std::sync::LazyLock;

use crate::double::{Call, Scripted, reading};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use flate2::Compression;
use flate2::write::GzEncoder;
use sensor_ingestion::{Config, router};
use serde_json::{Value, json};
use shared::memory::ManualClock;
use shared::units::Timestamp;
use tower::ServiceExt;

const MIB: usize = 1024 * 1024;
const EVENT: &str = r#"{"type":"controller_event","intersection_id":"J1","time":"2026-11-22T08:00:05Z","code":82,"parameter":5}"#;
const GZIP: [(&str, &str); 1] = [("content-encoding", "gzip")];

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn problem(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap())
    }

    /// Index, code and pointer of each rejection.
    fn rejected(&self) -> Vec<(u64, &str, Option<&str>)> {
        let list = self.body.get("rejected").or(self.body.get("errors")).unwrap().as_array().unwrap();
        list.iter().map(|r| (r["index"].as_u64().unwrap(), r["code"].as_str().unwrap(), r["pointer"].as_str())).collect()
    }
}

async fn post_to(stream: &Scripted, config: Config, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    post_at("/v1/readings", stream, config, headers, body).await
}

async fn post_at(path: &str, stream: &Scripted, config: Config, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let clock = ManualClock::at(Timestamp::parse("2026-11-22T08:00:30Z").unwrap());
    let router = shared::http::complete(router(stream.clone(), clock, stream.sleep(), config));
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = serde_json::from_slice(&to_bytes(body, usize::MAX).await.unwrap()).unwrap();
    let answer = Answer { status: parts.status, headers: parts.headers, body };
    assert_documented(&answer);
    answer
}

async fn post(headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    post_to(&Scripted::default(), Config::default(), headers, body).await
}

fn description() -> &'static Value {
    static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| serde_yaml_ng::from_str(include_str!("../../../../openapi.yaml")).unwrap());
    &DESCRIPTION
}

fn assert_documented(answer: &Answer) {
    let description = description();
    let resolve = |value: &Value| match value["$ref"].as_str() {
        Some(reference) => description.pointer(reference.trim_start_matches('#')).unwrap().clone(),
        None => value.clone(),
    };
    let response = resolve(&description["paths"]["/v1/readings"]["post"]["responses"][answer.status.as_str()]);
    let place = format!("{} {}", answer.status, answer.body);
    assert!(response["content"].get(answer.headers["content-type"].to_str().unwrap()).is_some(), "{place}");
    for (name, _) in response["headers"].as_object().unwrap() {
        assert!(answer.headers.contains_key(name), "{place}: no {name}");
    }
    let listed = |schema: &str, field: &str| description["components"]["schemas"][schema]["properties"][field]["description"].clone();
    if let Some(code) = answer.body["code"].as_str() {
        assert!(listed("Problem", "code").as_str().unwrap().contains(&format!("`{code}`")), "{place}");
    }
    let faults = description["components"]["schemas"]["Fault"]["description"].as_str().unwrap();
    for fault in ["errors", "rejected"].iter().flat_map(|list| answer.body[list].as_array().into_iter().flatten()) {
        assert!(faults.contains(&format!("`{}`", fault["code"].as_str().unwrap())), "{place}: {fault}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn fill(bytes: usize) -> String {
    EVENT.to_owned() + &" ".repeat(bytes - EVENT.len())
}

#[tokio::test]
async fn valid_readings_are_accepted_in_each_of_the_three_forms() {
    for (body, accepted) in [
        (EVENT.to_owned(), 1),
        (format!("[{EVENT},{EVENT}]"), 2),
        (format!(r#"{{"sent_by":"x","readings":[{EVENT},{EVENT}]}}"#), 2),
        (format!(" \n\t{EVENT}\r\n"), 1),
    ] {
        let stream = Scripted::default();
        let answer = post_to(&stream, Config::default(), &[("content-type", "application/json")], body).await;
        assert_eq!((answer.status.as_u16(), answer.body), (202, json!({"accepted": accepted, "rejected": []})));
        assert_eq!(stream.records()[0].readings.len(), accepted);
    }
}

#[tokio::test]
async fn the_examples_of_the_description_are_accepted() {
    let description = description();
    let examples = &description["paths"]["/v1/readings"]["post"]["requestBody"]["content"]["application/json"]["examples"];
    let readings = description["components"]["schemas"].as_object().unwrap().iter().filter(|(name, _)| name.ends_with("Reading"));
    let of_schemas = readings.flat_map(|(_, schema)| schema["examples"].as_array().into_iter().flatten());
    let all: Vec<_> = examples.as_object().unwrap().values().map(|example| &example["value"]).chain(of_schemas).collect();
    assert!(all.len() > 6);
    for example in all {
        let answer = post_to(&Scripted::default(), Config::OPEN, &[], example.to_string()).await;
        assert_eq!(answer.status, 202, "{example}: {}", answer.body);
    }
}

#[tokio::test]
async fn one_invalid_reading_leaves_the_others_alone() {
    let deep = format!(r#"{{"type":"detector","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let number = |value: &str| {
        format!(
            r#"{{"type":"detector","intersection_id":"J1","detector_id":"n","time":"2026-11-22T08:00:05Z","period_s":5,"volume":{value}}}"#
        )
    };
    let with = |from: &str, to: &str| EVENT.replace(from, to);
    let rows = [
        ("7".to_owned(), "wrong_type", ""),
        ("null".to_owned(), "wrong_type", ""),
        ("[]".to_owned(), "wrong_type", ""),
        ("{}".to_owned(), "missing_field", "/type"),
        (with("controller_event", "weather"), "unknown_type", "/type"),
        (with(r#""controller_event""#, "1"), "wrong_type", "/type"),
        (with("J1", ""), "invalid_id", "/intersection_id"),
        (with("J1", "../J1"), "invalid_id", "/intersection_id"),
        (with("J1", &"x".repeat(100_000)), "invalid_id", "/intersection_id"),
        (with(r#""J1""#, "{}"), "wrong_type", "/intersection_id"),
        (with("82", "65536"), "out_of_range", "/code"),
        (with("82", "8.2"), "out_of_range", "/code"),
        (with("82", r#""82""#), "wrong_type", "/code"),
        (with("05Z", "05"), "invalid_time", "/time"),
        (with("2026-11-22T08:00:05Z", &"9".repeat(1000)), "invalid_time", "/time"),
        (with("2026-11-22", "2026-11-20"), "too_old", "/time"),
        (with("2026-11-22", "2026-11-24"), "in_future", "/time"),
        (number("null"), "no_measure", ""),
        (number("-1"), "out_of_range", "/volume"),
        (number("1e300"), "out_of_range", "/volume"),
        (number("1e400"), "out_of_range", ""),
        (number(r#""NaN""#), "wrong_type", "/volume"),
        (number(r#"1,"fault":"tired""#), "unknown_value", "/fault"),
        (deep, "out_of_range", ""),
    ];
    let bodies: Vec<_> = rows.iter().map(|(body, _, _)| body.as_str()).collect();
    let stream = Scripted::default();
    let answer = post_to(&stream, Config::default(), &[], format!("[{},{EVENT}]", bodies.join(","))).await;
    assert_eq!((answer.status.as_u16(), &answer.body["accepted"]), (207, &json!(1)));
    let expected: Vec<_> = rows.iter().enumerate().map(|(i, (_, code, pointer))| (i as u64, *code, Some(*pointer))).collect();
    assert_eq!(answer.rejected(), expected);
    assert_eq!(stream.records().len(), 1);
}

#[tokio::test]
async fn a_field_given_twice_counts_as_it_stands_last() {
    let stream = Scripted::default();
    let body = EVENT.replace(r#""code":82"#, r#""code":"x","code":82"#);
    assert_eq!(post_to(&stream, Config::default(), &[], body).await.status, 202);
    assert_eq!(post(&[], EVENT.replace(r#""code":82"#, r#""code":82,"code":"x""#)).await.problem(), (422, "no_valid_readings"));
}

#[tokio::test]
async fn under_the_path_of_a_key_nobody_speaks_for_another() {
    let telemetry = |asset: &str| {
        let time = "2026-11-22T08:00:05Z";
        json!({"type": "telemetry", "asset_id": asset, "asset_kind": "pump", "time": time, "metrics": {"a": 1}}).to_string()
    };
    let foreign = |key: &str| EVENT.replace("J1", key);
    let body = [EVENT.to_owned(), telemetry("J1/n_0"), foreign("J2"), foreign("J10"), foreign("J"), telemetry("J10/n_0"), telemetry("J")];
    let (stream, body) = (Scripted::default(), format!("[{}]", body.join(",")));
    let answer = post_at("/v1/readings/J1", &stream, Config::default(), &[], body).await;
    assert_eq!((answer.status.as_u16(), &answer.body["accepted"]), (207, &json!(2)));
    let refused = [(2, "/intersection_id"), (3, "/intersection_id"), (4, "/intersection_id"), (5, "/asset_id"), (6, "/asset_id")];
    assert_eq!(answer.rejected(), refused.map(|(index, pointer)| (index, "foreign_key", Some(pointer))));
    let mut keys: Vec<_> = stream.records().iter().map(|record| record.key.clone()).collect();
    keys.sort();
    assert_eq!(keys, ["J1", "J1/n_0"]);
    for path in ["..", "J1%2Fn_0", "J%201", "%00", "J1%2F..%2FJ2"] {
        let answer = post_at(&format!("/v1/readings/{path}"), &stream, Config::default(), &[], EVENT).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter"), "{path}");
    }
    assert_eq!(post(&[], foreign("J2")).await.status, 202, "who may call the route of all keys is believed");
}

#[tokio::test]
async fn no_valid_reading_is_a_problem_with_an_entry_for_each() {
    let body = format!("[{},{{}}]", EVENT.replace("2026-11-22", "2025-11-22"));
    let answer = post(&[], body).await;
    assert_eq!(answer.problem(), (422, "no_valid_readings"));
    assert_eq!(answer.rejected(), [(0, "too_old", Some("/time")), (1, "missing_field", Some("/type"))]);
}

#[tokio::test]
async fn a_body_without_readings_is_a_problem() {
    for body in ["[]", r#"{"readings":[]}"#] {
        let answer = post(&[], body).await;
        assert_eq!((answer.problem(), &answer.body["errors"]), ((422, "no_valid_readings"), &json!([])), "{body}");
    }
    let answer = post(&[], format!(r#"{{"readings":{EVENT}}}"#)).await;
    assert_eq!(answer.problem(), (422, "no_valid_readings"));
    let expected = json!([{"pointer": "/readings", "code": "wrong_type", "message": "must be an array"}]);
    assert_eq!(answer.body["errors"], expected);
}

#[tokio::test]
async fn an_open_window_takes_recorded_readings() {
    let body = format!("[{},{}]", EVENT.replace("2026", "1999"), EVENT.replace("2026", "2099"));
    assert_eq!(post_to(&Scripted::default(), Config::OPEN, &[], body).await.status, 202);
}

#[tokio::test]
async fn a_body_that_is_no_json_text_is_refused_with_its_place() {
    let open = "[".repeat(100_000);
    let wrapped = r#"{"readings":"#.repeat(50_000);
    for (body, code, place) in [
        (&b""[..], "invalid_json", "line 1 column 0"),
        (b"   ", "invalid_json", "line 1 column 3"),
        (b"{\"type\":\n NaN}", "invalid_json", "line 2 column 2"),
        (b"[1,]", "invalid_json", "line 1 column 4"),
        (b"[] []", "invalid_json", "line 1 column 4"),
        (b"\xef\xbb\xbf[]", "invalid_json", "line 1 column 1"),
        (open.as_bytes(), "invalid_json", "column 100000"),
        (wrapped.as_bytes(), "invalid_json", "column 600000"),
        (b"[\"\xff\"]", "invalid_utf8", "byte 2"),
        (b"{\"type\":\"\xc3", "invalid_utf8", "byte 9"),
    ] {
        let answer = post(&[], body.to_vec()).await;
        assert_eq!(answer.problem(), (400, code), "{place}");
        assert!(answer.body["detail"].as_str().unwrap().contains(place), "{}", answer.body);
    }
}

#[tokio::test]
async fn deep_nesting_of_a_whole_body_is_one_invalid_reading() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for body in [deep.clone(), format!(r#"{{"readings":{deep}}}"#), format!(r#"{{"x":{deep}}}"#)] {
        assert_eq!(post(&[], body).await.problem(), (422, "no_valid_readings"));
    }
}

#[tokio::test]
async fn a_body_of_one_mebibyte_is_read_and_one_more_byte_is_not() {
    assert_eq!(post(&[], fill(MIB)).await.status, 202);
    assert_eq!(post(&[], fill(MIB + 1)).await.problem(), (413, "body_too_large"));
    assert_eq!(post(&GZIP, gzip(fill(MIB).as_bytes())).await.status, 202);
    assert_eq!(post(&GZIP, gzip(fill(MIB + 1).as_bytes())).await.problem(), (413, "body_too_large"));
    assert_eq!(post(&GZIP, vec![0; MIB + 1]).await.problem(), (413, "body_too_large"), "as sent");
}

#[tokio::test]
async fn a_body_that_unpacks_to_far_more_than_allowed_is_not_unpacked() {
    let bomb = gzip(&vec![b' '; 32 * MIB]);
    assert!(bomb.len() < MIB);
    assert_eq!(post(&GZIP, bomb).await.problem(), (413, "body_too_large"));
}

#[tokio::test]
async fn a_damaged_gzip_body_is_refused() {
    let whole = gzip(EVENT.as_bytes());
    let mut wrong_sum = whole.clone();
    let sum = whole.len() - 8;
    wrong_sum[sum] ^= 1;
    let trailing = [&whole[..], b"trailing"].concat();
    for (what, body) in [
        ("half a stream", whole[..whole.len() / 2].to_vec()),
        ("no trailer", whole[..whole.len() - 1].to_vec()),
        ("wrong checksum", wrong_sum),
        ("trailing bytes", trailing),
        ("not gzip", EVENT.as_bytes().to_vec()),
        ("nothing", vec![]),
    ] {
        assert_eq!(post(&GZIP, body).await.problem(), (400, "invalid_gzip"), "{what}");
    }
    assert_eq!(post(&[], whole.clone()).await.problem(), (400, "invalid_utf8"), "packed, but not said to be");
    let (front, back) = EVENT.split_at(20);
    assert_eq!(post(&GZIP, [gzip(front.as_bytes()), gzip(back.as_bytes())].concat()).await.status, 202, "members add up");
}

#[tokio::test]
async fn another_type_or_coding_is_refused_with_the_header_to_set() {
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-type", "application/json; charset=iso-8859-1"),
        ("content-type", ""),
        ("content-encoding", "br"),
        ("content-encoding", "gzip, gzip"),
        ("content-encoding", ""),
    ] {
        let answer = post(&[(name, value)], EVENT).await;
        assert_eq!(answer.problem(), (415, "unsupported_media_type"), "{name}: {value}");
        assert!(answer.body["detail"].as_str().unwrap().contains(name), "{}", answer.body);
    }
    let twice = [("content-type", "application/json"), ("content-type", "text/plain")];
    assert_eq!(post(&twice, EVENT).await.problem(), (415, "unsupported_media_type"), "of two types");
    assert_eq!(post(&[GZIP[0], GZIP[0]], EVENT).await.problem(), (415, "unsupported_media_type"), "packed twice");
    for (name, value) in [
        ("content-type", "application/json;charset=\"UTF-8\"; x=y"),
        ("content-type", "Application/Json"),
        ("content-encoding", "identity"),
    ] {
        assert_eq!(post(&[(name, value)], EVENT).await.status, 202, "{name}: {value}");
    }
    assert_eq!(post(&[("content-encoding", "GZip")], gzip(EVENT.as_bytes())).await.status, 202);
}

#[tokio::test]
async fn five_hundred_readings_are_taken_and_one_more_is_not() {
    let body = |n: usize| format!("[{}]", (0..n).map(|i| EVENT.replace("J1", &format!("J{i}"))).collect::<Vec<_>>().join(","));
    assert_eq!(post(&[], body(500)).await.body, json!({"accepted": 500, "rejected": []}));
    let answer = post(&[], body(501)).await;
    assert_eq!(answer.problem(), (413, "too_many_readings"));
    assert_eq!(post(&[], format!("[{}]", vec!["0"; MIB / 2 - 1].join(","))).await.problem(), (413, "too_many_readings"));
}

#[tokio::test]
async fn what_the_stream_refuses_is_listed_beside_what_is_invalid() {
    let mut readings = ["a", "b", "b"].map(|key| reading(key, 1, 0, false)).to_vec();
    readings.insert(2, "{}".into());
    let script = [Call::Refuse { refused: 0b10, retry: true }].into_iter().chain([Call::Refuse { refused: 0b01, retry: true }; 4]);
    let stream = Scripted::new(script);
    let answer = post_to(&stream, Config::default(), &[], format!("[{}]", readings.join(","))).await;
    assert_eq!(answer.problem(), (503, "stream_unavailable"));
    assert_eq!((&answer.body["accepted"], &answer.headers["retry-after"]), (&json!(1), &"1".parse().unwrap()));
    let unavailable = "stream_unavailable";
    assert_eq!(answer.rejected(), [(1, unavailable, None), (2, "missing_field", Some("/type")), (3, unavailable, None)]);
    assert_eq!(stream.records().len(), 1);
}

#[tokio::test]
async fn another_method_is_refused() {
    let stream = Scripted::default();
    let router = shared::http::complete(router(stream.clone(), ManualClock::default(), stream.sleep(), Config::OPEN));
    let response = router.oneshot(Request::get("/v1/readings").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
}
