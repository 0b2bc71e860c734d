//! Asking a model.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use shared::ids::AssetKind;
use shared::memory::Memory;
use shared::ports::{ModelSource, PortError};

use crate::client::{Answer, Client, over};

const PATH: &str = "/v1/predictions";
const MIB: usize = 1024 * 1024;

/// What the sensors of a turbofan say in its first cycles.
const SENSORS: [f64; 21] = [
    518.67, 642.15, 1591.82, 1403.14, 14.62, 21.61, 553.75, 2388.04, 9044.07, 1.3, 47.49, 522.28, 2388.07, 8131.49, 8.4318, 0.03, 392.0,
    2388.0, 100.0, 39.0, 23.4236,
];

/// A turbofan whose static pressure behind the compressor rises by this much in each cycle.
fn turbofan(cycles: u32, rise: f64) -> Value {
    let sample = |cycle: u32| {
        let sensors = SENSORS.iter().enumerate().map(|(number, value)| (format!("s{}", number + 1), json!(value)));
        let regime = [("op1", -0.0007), ("op2", -0.0004), ("op3", 100.0)].map(|(name, value)| (name.to_owned(), json!(value)));
        let mut metrics: serde_json::Map<_, _> = sensors.chain(regime).collect();
        metrics.insert("s11".into(), json!(SENSORS[10] + rise * f64::from(cycle)));
        json!({"cycle": cycle, "metrics": metrics})
    };
    json!({"asset_kind": "turbofan", "samples": (1..=cycles).map(sample).collect::<Vec<_>>()})
}

async fn predict(api: &Client, body: &Value) -> Answer {
    api.send("POST", PATH, &[], body.to_string()).await
}

fn fields(value: &Value) -> Vec<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn a_prediction_has_the_shape_of_the_description() {
    let api = over(&Memory::new()).await;
    let answer = predict(&api, &turbofan(60, 0.0)).await;
    assert_eq!(answer.status, 200);
    let (answer, example) = (answer.json(), api.example("Prediction"));
    assert_eq!(fields(&answer), fields(example));
    assert_eq!(fields(&answer["remaining_useful_life"]), fields(&example["remaining_useful_life"]));
    assert_eq!(fields(&answer["reasons"][0]), fields(&example["reasons"][0]));
    assert_eq!(answer["model"]["name"], "turbofan");
}

#[tokio::test]
async fn a_model_that_cannot_say_says_why() {
    let api = over(&Memory::new()).await;
    let answer = predict(&api, &json!({"asset_kind": "turbofan", "samples": [{"metrics": {"x": 1}}]})).await.json();
    assert_eq!(
        (answer["state"].as_str(), &answer["health_index"], &answer["remaining_useful_life"]),
        (Some("unknown"), &Value::Null, &Value::Null)
    );
    assert_eq!(answer["reasons"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order_and_a_wrong_asset_costs_itself_alone() {
    let api = over(&Memory::new()).await;
    let units = [turbofan(60, 0.0), turbofan(60, 0.005)];
    let alone = [predict(&api, &units[0]).await.json(), predict(&api, &units[1]).await.json()];
    assert_ne!(alone[0], alone[1]);
    let wrong = [json!({"asset_kind": "pump", "samples": [{"metrics": {"p": 1}}]}), json!({"asset_kind": "turbofan"}), json!(7)];
    let answer = predict(&api, &json!({"batch": [&units[1], &wrong[0], &wrong[1], &units[0], &wrong[2]]})).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    let items = answer["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0], &items[3]), (5, &alone[1], &alone[0]));
    assert_eq!(items[1], predict(&api, &wrong[0]).await.json());
    assert_eq!(items[2], predict(&api, &wrong[1]).await.json());
    assert_eq!(items[4], predict(&api, &wrong[2]).await.json());
}

#[tokio::test]
async fn a_kind_that_no_model_knows_is_refused() {
    let api = over(&Memory::new()).await;
    let answer = predict(&api, &json!({"asset_kind": "pump", "samples": [{"metrics": {"p": 1}}]})).await;
    assert_eq!(answer.problem(), (422, "unknown_kind".into()));
    assert_eq!(answer.faults(), [("unknown_kind".to_owned(), "/asset_kind".to_owned())]);
}

#[tokio::test]
async fn every_fault_is_refused_by_its_code_and_place() {
    let api = over(&Memory::new()).await;
    let metric =
        |name: &str, value: Value| json!({"asset_kind": "turbofan", "samples": [{"metrics": {"s1": 1}}, {"metrics": {name: value}}]});
    let many = Value::Object((0..257).map(|number| (format!("s{number}"), json!(0))).collect());
    for (body, faults) in [
        (json!([]), &[("wrong_type", "")][..]),
        (json!({}), &[("missing_field", "/asset_kind"), ("missing_field", "/samples")]),
        (json!({"asset_kind": "a b", "samples": {}}), &[("invalid_id", "/asset_kind"), ("wrong_type", "/samples")]),
        (json!({"asset_kind": "turbofan", "samples": []}), &[("out_of_range", "/samples")]),
        (json!({"asset_kind": "turbofan", "samples": vec![0; 10_001]}), &[("too_many", "/samples")]),
        (json!({"asset_kind": "turbofan", "samples": [7]}), &[("wrong_type", "/samples/0")]),
        (
            json!({"asset_kind": "turbofan", "samples": [{"cycle": -1}]}),
            &[("out_of_range", "/samples/0/cycle"), ("missing_field", "/samples/0/metrics")],
        ),
        (json!({"asset_kind": "turbofan", "samples": [{"metrics": {}}]}), &[("out_of_range", "/samples/0/metrics")]),
        (json!({"asset_kind": "turbofan", "samples": [{"metrics": many}]}), &[("out_of_range", "/samples/0/metrics")]),
        (metric("S1", json!(1)), &[("invalid_id", "/samples/1/metrics/S1")]),
        (metric("s1", json!("1")), &[("wrong_type", "/samples/1/metrics/s1")]),
        (metric("s1", Value::Null), &[("wrong_type", "/samples/1/metrics/s1")]),
        (json!({"batch": {}}), &[("wrong_type", "/batch")]),
        (json!({"batch": []}), &[("out_of_range", "/batch")]),
        (json!({"batch": vec![0; 101]}), &[("too_many", "/batch")]),
    ] {
        let answer = predict(&api, &body).await;
        assert_eq!(answer.problem(), (422, "invalid_request".into()), "{:.200}", body.to_string());
        let found = answer.faults();
        let found: Vec<_> = found.iter().map(|(code, pointer)| (code.as_str(), pointer.as_str())).collect();
        assert_eq!(found, faults, "{:.200}", body.to_string());
    }
}

#[tokio::test]
async fn a_body_may_be_packed_and_is_at_most_6_mib() {
    let api = over(&Memory::new()).await;
    let body = turbofan(60, 0.0).to_string();
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let plain = api.send("POST", PATH, &[], body.clone()).await.json();
    let coding = [("content-encoding", "gzip")];
    assert_eq!(api.send("POST", PATH, &coding, gzip(&body)).await.json(), plain);

    let fill = |bytes: usize| body.clone() + &" ".repeat(bytes - body.len());
    assert_eq!(api.send("POST", PATH, &[], fill(6 * MIB)).await.status, 200);
    for (headers, body, expected) in [
        (&[][..], fill(6 * MIB + 1).into_bytes(), (413, "body_too_large")),
        (&coding, gzip(&fill(6 * MIB + 1)), (413, "body_too_large")),
        (&coding, b"no gzip".to_vec(), (400, "invalid_gzip")),
        (&[("content-type", "text/csv")], fill(6 * MIB).into_bytes(), (415, "unsupported_media_type")),
        (&[], b"{\"samples\": NaN}".to_vec(), (400, "invalid_json")),
        (&[], b"\"\xff\"".to_vec(), (400, "invalid_utf8")),
    ] {
        let answer = api.send("POST", PATH, headers, body).await;
        assert_eq!(answer.problem(), (expected.0, expected.1.to_owned()));
    }
}

/// Models out of reach.
struct Unreachable;

impl ModelSource for Unreachable {
    async fn model(&self, _: &AssetKind) -> Result<Option<Vec<u8>>, PortError> {
        Err(PortError::Unavailable("bucket", "throttled secret".into()))
    }
}

#[tokio::test]
async fn a_source_of_models_that_fails_costs_the_whole_request() {
    let api = Client::with(Memory::new(), Memory::new(), Unreachable).await;
    let pump = json!({"asset_kind": "pump", "samples": [{"metrics": {"p": 1}}]});
    for body in [&pump, &json!({"batch": [turbofan(60, 0.0), pump]})] {
        let answer = predict(&api, body).await;
        assert_eq!(answer.problem(), (503, "store_unavailable".into()));
        assert!(!answer.text.contains("secret"), "{}", answer.text);
    }
}
