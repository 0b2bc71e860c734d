//! Golden events: what each function answers to its sample events, and what it leaves behind.
//!
//! Every event meets the state in which `events/intersection.json` is configured, and the clock of its own request. Its answer
//! is `events/expected/{function}/{name}.json`: there "*" stands for any value, and only headers that are listed count. What
//! changed is `events/expected/effects/{function}/{name}.json`; without that file nothing may change. `tests/invoke.py`
//! compares the same answers with the Lambda binaries. `UPDATE_GOLDEN=1` writes what was not as expected.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lambda_events::encodings::Base64Data;
use aws_lambda_events::event::kinesis::KinesisEvent;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Map, Value, json};
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::ports::{AlertReader, ConditionReader, DecisionLog, IntersectionStore};
use shared::units::{Deciseconds, Timestamp};
use signal_adjustment::workflow::Workflow;
use tests::junction::{at, configuration};
use tower::ServiceExt;

const FUNCTIONS: [&str; 4] = ["maintenance-prediction", "operations-api", "sensor-ingestion", "signal-adjustment"];

fn events() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../events")
}

fn names(directory: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(directory).into_iter().flatten().map(|file| file.unwrap().path());
    files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn read(path: &Path) -> Option<Value> {
    let text = fs::read_to_string(path).ok()?;
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[test]
fn every_event_has_an_expected_answer_and_every_expectation_an_event() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        // The other tests are about to write them.
        return;
    }
    for function in FUNCTIONS {
        let there = names(&events().join(function));
        assert!(!there.is_empty(), "{function} has no events");
        assert_eq!(names(&events().join("expected").join(function)), there, "{function}");
        let effects = names(&events().join("expected/effects").join(function));
        assert!(effects.is_subset(&there), "{function}: {:?} have no event", effects.difference(&there));
    }
    let known: BTreeSet<_> = FUNCTIONS.map(str::to_owned).into();
    let expected: BTreeSet<_> = names(&events().join("expected")).into_iter().filter(|name| name != "effects").collect();
    assert_eq!((expected, names(&events().join("expected/effects"))), (known.clone(), known));
}

#[tokio::test]
async fn sensor_ingestion_answers_its_events_as_expected() {
    check("sensor-ingestion", async |memory, event| {
        let clock = ManualClock::at(Timestamp::from_millis(event["requestContext"]["timeEpoch"].as_i64().unwrap()));
        let config = sensor_ingestion::Config::default();
        exchange(sensor_ingestion::router(memory, clock, |_: Duration| async {}, config), &event).await
    })
    .await;
}

#[tokio::test]
async fn operations_api_answers_its_events_as_expected() {
    check("operations-api", async |memory, event| {
        exchange(operations_api::router(memory.clone(), ManualClock::at(at(0)), memory.clone(), memory), &event).await
    })
    .await;
}

#[tokio::test]
async fn signal_adjustment_answers_its_events_as_expected() {
    check("signal-adjustment", async |memory, event| {
        let event: KinesisEvent = serde_json::from_value(event).unwrap();
        let workflow = Workflow::new(memory.clone(), ManualClock::at(at(6)), Deciseconds::from_secs(60));
        json!(signal_adjustment::handle(event, &workflow, &memory).await)
    })
    .await;
}

#[tokio::test]
async fn maintenance_prediction_answers_its_events_as_expected() {
    check("maintenance-prediction", async |memory, event| {
        let (store, models) = (memory.clone(), memory.clone());
        let ttl = Deciseconds::from_secs(60);
        let workflow = maintenance_prediction::workflow::Workflow::new(store, memory.clone(), models, ManualClock::at(at(0)), ttl);
        if event == json!({"greenwave": "sweep"}) {
            workflow.sweep().await.unwrap();
            return Value::Null;
        }
        json!(maintenance_prediction::handle(serde_json::from_value(event).unwrap(), &workflow, &memory).await)
    })
    .await;
}

/// Holds the answers and effects of all events of a function against what is expected.
async fn check(function: &str, handle: impl AsyncFn(Memory, Value) -> Value) {
    let mut differences = Vec::new();
    for name in names(&events().join(function)) {
        let memory = Memory::new();
        memory.put(None, &Intersection::try_from(configuration("J1")).unwrap()).await.unwrap();
        let before = content(&memory).await;
        let event = read(&events().join(function).join(&name).with_extension("json")).unwrap();
        let answer = handle(memory.clone(), event).await;
        let effects: Map<_, _> = content(&memory).await.into_iter().filter(|(part, now)| before[part] != *now).collect();

        let expected = events().join("expected").join(function).join(&name).with_extension("json");
        compare(&expected, Some(answer), &mut differences);
        let expected = events().join("expected/effects").join(function).join(&name).with_extension("json");
        compare(&expected, (!effects.is_empty()).then_some(Value::Object(effects)), &mut differences);
    }
    assert!(differences.is_empty(), "with UPDATE_GOLDEN=1 this would be expected:\n{}", differences.join("\n"));
}

/// The response of API Gateway to its event, with the body as JSON. A stand-in for `lambda_http`, which comes with the AWS
/// runtime; `tests/invoke.py` tests the real one.
async fn exchange(router: Router, event: &Value) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // The gateway delivers the path decoded, and '#' would end it.
    let uri = format!("{}?{}", text(&event["rawPath"]).replace('#', "%23"), text(&event["rawQueryString"]));
    let mut request = Request::builder().method(event["requestContext"]["http"]["method"].as_str().unwrap()).uri(uri);
    for (name, value) in event["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    let body = match &event["body"] {
        Value::Null => Vec::new(),
        body if event["isBase64Encoded"] == true => serde_json::from_value::<Base64Data>(body.clone()).unwrap().0,
        body => text(body).into_bytes(),
    };
    let response = shared::http::complete(router).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let headers: Map<_, _> = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), json!(value.to_str().unwrap()))).collect();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    json!({"statusCode": parts.status.as_u16(), "headers": headers, "body": body})
}

/// Everything in the memory, as people read it.
async fn content(memory: &Memory) -> Map<String, Value> {
    let stream = memory.stream().into_iter().map(|record| serde_json::from_slice::<Value>(&record.data).unwrap());
    let configured = memory.list(None, 500).await.unwrap().items;
    let plans: Vec<_> = memory.junctions().into_iter().map(|row| row.plan).collect();
    let mut decisions = Vec::new();
    for plan in &plans {
        let (from, to) = (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX));
        let records = memory.decisions(&plan.intersection_id, from, to, None, 500).await.unwrap().items;
        decisions.extend(records.into_iter().map(|r| json!({"as_of": r.as_of, "reason": r.reason, "distrusted": r.distrusted})));
    }
    let quarantine = memory.quarantined().into_iter().map(|record| {
        let text = String::from_utf8_lossy(&record.data).into_owned();
        json!({"id": record.id, "key": record.key, "function": record.function, "reason": record.reason, "data": text})
    });
    let conditions = memory.conditions(None, 500).await.unwrap().items;
    let parts = [
        ("stream", json!(stream.collect::<Vec<_>>())),
        ("intersections", json!(configured.iter().map(|(_, intersection)| intersection.id()).collect::<Vec<_>>())),
        ("plans", json!(plans)),
        ("decisions", json!(decisions)),
        ("quarantine", json!(quarantine.collect::<Vec<_>>())),
        ("health", json!(conditions.into_iter().flat_map(|condition| condition.health).collect::<Vec<_>>())),
        ("alerts", json!(memory.alerts(None, 500).await.unwrap().items)),
        ("events", json!(memory.events().iter().map(|event| json!([event.r#type, event.id])).collect::<Vec<_>>())),
    ];
    parts.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

fn compare(path: &Path, actual: Option<Value>, differences: &mut Vec<String>) {
    let expected = read(path);
    let actual = match (&expected, actual) {
        (Some(expected), Some(actual)) => Some(as_expected(expected, listed_headers(expected, actual))),
        (_, actual) => actual,
    };
    if actual == expected {
        return;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let Some(actual) = actual else { return fs::remove_file(path).unwrap() };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, serde_json::to_string_pretty(&actual).unwrap() + "\n").unwrap();
    } else {
        list(&path.display().to_string(), &json!(expected), &json!(actual), differences);
    }
}

/// Names each place at which two values differ.
fn list(place: &str, expected: &Value, actual: &Value, differences: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                list(&format!("{place}/{name}"), &expected[name], &actual[name], differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                list(&format!("{place}/{i}"), a, b, differences);
            }
        }
        _ if expected == actual => {}
        _ => differences.push(format!("{place}: expected {expected}, got {actual}")),
    }
}

fn listed_headers(expected: &Value, mut actual: Value) -> Value {
    if let (Some(listed), Some(headers)) = (expected["headers"].as_object(), actual.get_mut("headers")) {
        headers.as_object_mut().unwrap().retain(|name, _| listed.contains_key(name));
    }
    actual
}

/// The answer with "*" wherever that is expected.
fn as_expected(expected: &Value, actual: Value) -> Value {
    match (expected, actual) {
        (Value::String(any), actual) if any == "*" && !actual.is_null() => expected.clone(),
        (Value::Object(expected), Value::Object(actual)) => {
            let field = |(name, value): (String, Value)| {
                let value = expected.get(&name).map_or(value.clone(), |expected| as_expected(expected, value));
                (name, value)
            };
            actual.into_iter().map(field).collect()
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            expected.iter().zip(actual).map(|(expected, actual)| as_expected(expected, actual)).collect()
        }
        (_, actual) => actual,
    }
}
