//! Reading why the signal changed.

use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::memory::Memory;
use shared::plan::{Candidate, DecisionRecord, DistrustedDetector};
use shared::ports::DecisionLog;
use shared::units::Timestamp;

use crate::client::{Client, over};
use crate::plans::plan_of;

const PATH: &str = "/v1/intersections/J1/decisions";

/// Decisions at 08:00:00, 08:00:05 and so on.
async fn decide(api: &Client, memory: &Memory, number: i64) {
    let first = Timestamp::parse("2026-11-22T08:00:00Z").unwrap();
    let configuration = Intersection::try_from(api.junction()).unwrap().etag();
    let records = (0..number).map(|i| {
        let next = plan_of("J1", first.plus_millis(i * 5_000));
        DecisionRecord {
            intersection_id: next.intersection_id.clone(),
            as_of: next.as_of,
            revision: next.revision,
            configuration,
            reason: next.reason.clone(),
            inputs: json!({}),
            candidates: vec![Candidate { stage: next.stages[0].stage.clone(), cost: 1.5, change_in_s: None, limit: None }],
            limits: vec!["green_min".into()],
            distrusted: vec![DistrustedDetector { detector_id: "n_0".try_into().unwrap(), reason: "silent".into() }],
            previous: None,
            next,
        }
    });
    memory.record(&records.collect::<Vec<_>>()).await.unwrap();
}

async fn times(api: &Client, query: &str) -> Vec<String> {
    let (mut times, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{PATH}?{query}&cursor={cursor}")).await.json();
        times.extend(page["items"].as_array().unwrap().iter().map(|record| record["as_of"].as_str().unwrap()[14..19].to_owned()));
        match &page["next_cursor"] {
            Value::String(next) => cursor.clone_from(next),
            _ => return times,
        }
    }
}

#[tokio::test]
async fn a_record_has_the_shape_of_the_description() {
    let memory = Memory::new();
    let api = over(&memory).await;
    decide(&api, &memory, 1).await;
    let page = api.get(PATH).await.json();
    let example = &api.description()["components"]["examples"]["Decisions"]["value"];
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&page), fields(example));
    assert_eq!(fields(&page["items"][0]), fields(&example["items"][0]));
    assert_eq!(fields(&page["items"][0]["candidates"][0]), fields(&example["items"][0]["candidates"][0]));
}

#[tokio::test]
async fn a_span_begins_with_from_and_ends_before_to() {
    let memory = Memory::new();
    let api = over(&memory).await;
    decide(&api, &memory, 5).await;
    assert_eq!(times(&api, "").await, ["00:00", "00:05", "00:10", "00:15", "00:20"]);
    for limit in 1..4 {
        let query = format!("limit={limit}&from=2026-11-22T09:00:05%2B01:00&to=2026-11-22T08:00:15Z");
        assert_eq!(times(&api, &query).await, ["00:05", "00:10"], "limit {limit}");
    }
    assert_eq!(times(&api, "from=2026-11-22T08:00:05Z&to=2026-11-22T08:00:05Z").await, [""; 0]);
    assert_eq!(times(&api, "from=2027-01-01T00:00:00Z").await, [""; 0]);
}

#[tokio::test]
async fn a_span_that_is_malformed_or_the_wrong_way_round_is_refused() {
    let api = over(&Memory::new()).await;
    for (query, name) in [
        ("from=yesterday", "from"),
        ("to=", "to"),
        ("from=2026-11-22T09:00:05+01:00", "%2B"),
        ("from=2026-11-22T08:00:01Z&to=2026-11-22T08:00:00Z", "from"),
        ("cursor=J1", "cursor"),
    ] {
        let answer = api.get(&format!("{PATH}?{query}")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".into()), "{query}");
        assert!(answer.text.contains(name), "{}", answer.text);
    }
}

#[tokio::test]
async fn an_intersection_without_decisions_has_an_empty_list() {
    let api = over(&Memory::new()).await;
    assert_eq!(api.get(PATH).await.json(), json!({"items": [], "next_cursor": null}));
}
