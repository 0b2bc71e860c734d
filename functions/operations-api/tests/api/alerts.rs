//! Reading and acknowledging alerts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::alert::{Acknowledgement, Alert, AlertStatus, CloudEvent, Urgency};
use shared::asset::Fault;
use shared::ids::{AlertId, AssetId, AssetKind};
use shared::memory::Memory;
use shared::ports::{AcknowledgementStore, AlertStore, EventBus, PortError};
use shared::units::Timestamp;

use crate::client::{Answer, Client, over};

/// The alert that this asset raised so many minutes after eight.
fn alert(asset: &str, fault: Fault, minutes: i64) -> Alert {
    let asset_id = AssetId::try_from(asset).unwrap();
    let raised_at = Timestamp::parse("2026-11-22T08:00:00Z").unwrap().plus_millis(minutes * 60_000);
    Alert {
        id: Alert::id_of(&asset_id, fault, raised_at),
        kind: AssetKind::try_from(if asset.contains('/') { "detector" } else { "vehicle_engine" }).unwrap(),
        asset_id,
        fault,
        urgency: Urgency::NextVisit,
        raised_at,
        last_raised_at: raised_at,
        cleared_at: None,
        occurrences: 1,
        text: "It counts half of what its neighbours make likely.".into(),
        evidence: [("ratio".to_owned(), 0.5)].into(),
        recommended_action: "Raise the sensitivity, clean the lens, or check whether vehicles pass beside the zone.".into(),
    }
}

fn cleared(alert: &Alert) -> Alert {
    Alert { cleared_at: Some(alert.last_raised_at.plus_millis(60_000)), ..alert.clone() }
}

fn acknowledged(occurrence: u32) -> Acknowledgement {
    Acknowledgement { by: "Ada".into(), note: None, at: Timestamp::from_millis(0), occurrence }
}

fn path(alert: &Alert) -> String {
    format!("/v1/alerts/{}", alert.id)
}

async fn acknowledge(api: &Client, id: &AlertId, body: Value) -> Answer {
    api.send("POST", &format!("/v1/alerts/{id}/acknowledgement"), &[], body.to_string()).await
}

fn ids(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_acknowledged_alert_has_the_shape_of_the_description() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let alert = alert("J1/n_0", Fault::Undercount, 15);
    memory.put_alerts(std::slice::from_ref(&alert)).await.unwrap();
    let shown = api.get(&path(&alert)).await.json();
    assert_eq!((shown["status"].as_str(), &shown["acknowledgement"]), (Some("open"), &Value::Null));

    let answer = acknowledge(&api, &alert.id, json!({"by": "Ada", "note": "Crew is on its way."})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, api.example("Alert").clone()));
    assert_eq!(api.get(&path(&alert)).await.json(), answer.json());
    assert_eq!(api.get("/v1/alerts").await.json(), json!({"items": [answer.json()], "next_cursor": null}));
}

#[tokio::test]
async fn an_acknowledgement_is_told_to_others_with_the_alert_as_the_api_shows_it() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let alert = alert("J1/n_0", Fault::Undercount, 15);
    memory.put_alerts(std::slice::from_ref(&alert)).await.unwrap();
    let answer = acknowledge(&api, &alert.id, json!({"by": "Ada"})).await;
    let events = memory.events();
    assert_eq!((events.len(), events[0].r#type), (1, "greenwave.alert.acknowledged"));
    assert_eq!(events[0].data, answer.json());
}

#[tokio::test]
async fn the_first_acknowledgement_of_an_occurrence_stays() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let mut alert = alert("J1/n_0", Fault::Undercount, 15);
    memory.put_alerts(std::slice::from_ref(&alert)).await.unwrap();
    let first = acknowledge(&api, &alert.id, json!({"by": "Ada", "note": "mine"})).await;
    let second = acknowledge(&api, &alert.id, json!({"by": "Bob"})).await;
    assert_eq!((second.status.as_u16(), second.json()), (200, first.json()));
    let sent: Vec<_> = memory.events().into_iter().map(|event| event.id).collect();
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]), "whoever was told already can tell by the id");

    alert.occurrences = 2;
    memory.put_alerts(std::slice::from_ref(&alert)).await.unwrap();
    let back = api.get(&path(&alert)).await.json();
    assert_eq!((back["status"].as_str(), back["acknowledgement"]["by"].as_str()), (Some("open"), Some("Ada")));
    let third = acknowledge(&api, &alert.id, json!({"by": "Bob"})).await.json();
    assert_eq!((third["status"].as_str(), third["acknowledgement"]["by"].as_str()), (Some("acknowledged"), Some("Bob")));
    assert_ne!(memory.events()[2].id, sent[0]);
}

#[tokio::test]
async fn a_cleared_alert_cannot_be_acknowledged_and_an_unknown_one_is_not_found() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let alert = alert("J1/n_0", Fault::Undercount, 15);
    let unknown = acknowledge(&api, &alert.id, json!({"by": "Ada"})).await;
    assert_eq!(unknown.problem(), (404, "not_found".into()));
    assert_eq!(api.get(&path(&alert)).await.problem(), (404, "not_found".into()));
    assert_eq!(api.get("/v1/alerts/a%20b").await.problem(), (400, "invalid_parameter".into()));

    memory.put_alerts(&[cleared(&alert)]).await.unwrap();
    let over = acknowledge(&api, &alert.id, json!({"by": "Ada"})).await;
    assert_eq!(over.problem(), (409, "alert_cleared".into()));
    assert!(memory.events().is_empty());
    assert_eq!(api.get(&path(&alert)).await.json()["acknowledgement"], Value::Null);
}

#[tokio::test]
async fn an_acknowledgement_that_is_not_one_is_refused() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let alert = alert("J1/n_0", Fault::Undercount, 15);
    memory.put_alerts(std::slice::from_ref(&alert)).await.unwrap();
    for (body, code, pointer) in [
        (json!({}), "missing_field", "/by"),
        (json!({"by": ""}), "out_of_range", "/by"),
        (json!({"by": "x".repeat(201)}), "out_of_range", "/by"),
        (json!({"by": "Ada", "note": "x".repeat(2_001)}), "out_of_range", "/note"),
        (json!({"by": "Ada", "note": 7}), "wrong_type", "/note"),
        (json!({"by": "Ada", "at": "now"}), "unknown_field", "/at"),
        (json!(["Ada"]), "wrong_type", ""),
    ] {
        let answer = acknowledge(&api, &alert.id, body.clone()).await;
        assert_eq!((answer.problem(), answer.faults()), ((422, "invalid_request".into()), vec![(code.into(), pointer.into())]), "{body}");
    }
    let path = format!("/v1/alerts/{}/acknowledgement", alert.id);
    for (headers, body, expected) in [
        (&[][..], b"{".to_vec(), (400, "invalid_json")),
        (&[], b"\"\xff\"".to_vec(), (400, "invalid_utf8")),
        (&[], vec![b' '; 32 * 1024 + 1], (413, "body_too_large")),
        (&[("content-type", "text/plain")], b"{}".to_vec(), (415, "unsupported_media_type")),
    ] {
        let answer = api.send("POST", &path, headers, body).await;
        assert_eq!(answer.problem(), (expected.0, expected.1.to_owned()));
    }
    assert_eq!(api.get(&self::path(&alert)).await.json()["status"], "open");
    // Four bytes a character, each written as two escapes.
    let longest = format!(r#"{{"by": "{}", "note": "{}"}}"#, r"\ud834\udd1e".repeat(200), r"\ud834\udd1e".repeat(2_000));
    assert_eq!(api.send("POST", &path, &[], longest).await.status, 200);
}

/// A bus that is out of order for a while.
#[derive(Clone)]
struct Moody {
    bus: Memory,
    is_broken: Arc<AtomicBool>,
    error: PortError,
}

impl EventBus for Moody {
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        if self.is_broken.load(Ordering::Relaxed) { Err(self.error.clone()) } else { self.bus.publish(events).await }
    }
}

#[tokio::test]
async fn an_acknowledgement_that_could_not_be_told_is_safe_to_repeat() {
    for (error, expected) in [
        (PortError::Unavailable("bus", "throttled secret".into()), (503, "event_bus_unavailable".to_owned())),
        (PortError::Unusable("bus", "no bus secret".into()), (500, "internal_error".to_owned())),
    ] {
        let memory = Memory::new();
        let bus = Moody { bus: memory.clone(), is_broken: Arc::new(AtomicBool::new(true)), error };
        let api = Client::new(memory.clone(), bus.clone()).await;
        let alert = alert("J1/n_0", Fault::Undercount, 15);
        memory.put_alerts(std::slice::from_ref(&alert)).await.unwrap();

        let failed = acknowledge(&api, &alert.id, json!({"by": "Ada"})).await;
        assert_eq!(failed.problem(), expected);
        assert!(!failed.text.contains("secret"), "{}", failed.text);
        assert_eq!(api.get(&path(&alert)).await.json()["status"], "acknowledged", "it is stored");
        bus.is_broken.store(false, Ordering::Relaxed);
        let repeated = acknowledge(&api, &alert.id, json!({"by": "Bob"})).await;
        assert_eq!((repeated.status.as_u16(), repeated.json()["acknowledgement"]["by"].as_str()), (200, Some("Ada")));
        assert_eq!(memory.events().len(), 1);
    }
}

#[tokio::test]
async fn the_list_shows_one_status_asset_kind_or_fault() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let open = alert("J1/n_0", Fault::Undercount, 0);
    let known = alert("J1/n_0", Fault::Drift, 1);
    let over = cleared(&alert("truck-17", Fault::EndOfLife, 2));
    memory.put_alerts(&[over.clone(), known.clone(), open.clone()]).await.unwrap();
    for alert in [&known, &over] {
        memory.acknowledge(&alert.id, &acknowledged(1)).await.unwrap();
    }
    for (query, expected) in [
        ("", &[&open, &known, &over][..]),
        ("status=open", &[&open]),
        ("status=acknowledged", &[&known]),
        ("status=cleared", &[&over]),
        ("asset_id=J1/n_0", &[&open, &known]),
        ("asset_id=J1%2Fn_0&status=acknowledged", &[&known]),
        ("kind=vehicle_engine", &[&over]),
        ("kind=pump", &[]),
        ("fault=drift", &[&known]),
        ("fault=drift&status=open", &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|alert| alert.id.to_string()).collect();
        for limit in [1, 2, 500] {
            assert_eq!(ids(&api.all("/v1/alerts", query, limit).await), expected, "{query} {limit}");
        }
    }
    for query in ["status=closed", "status=", "status=Open", "fault=broken", "asset_id=a%20b", "asset_id=", "kind=%FF", "cursor=a%20b"] {
        let answer = api.get(&format!("/v1/alerts?{query}")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".into()), "{query}");
        assert!(answer.text.contains(query.split('=').next().unwrap()), "{}", answer.text);
    }
}

#[tokio::test]
async fn many_cleared_alerts_cost_short_pages_but_no_open_one() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let past: Vec<_> = (0..6_000).map(|minutes| cleared(&alert("J1/n_0", Fault::NoData, minutes))).collect();
    memory.put_alerts(&past).await.unwrap();
    let open = alert("J1/n_0", Fault::NoData, 6_000);
    memory.put_alerts(std::slice::from_ref(&open)).await.unwrap();
    let page = api.get("/v1/alerts?status=open").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 0, "reads for one page are bounded");
    assert_eq!(ids(&api.all("/v1/alerts", "status=open", 100).await), [open.id.to_string()]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn paging_shows_each_alert_of_a_status_once_and_oldest_first(
        states in proptest::collection::vec((any::<bool>(), 0_u32..3, 1_u32..3), 0..40),
        status in proptest::option::of(0_usize..3),
        limit in 1_usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let memory = Memory::new();
            let api = over(&memory).await;
            let status = status.map(|number| AlertStatus::NAMES[number]);
            let mut expected = Vec::new();
            for (minutes, (over, known, occurrences)) in (0..).zip(states) {
                let alert = Alert { occurrences, ..alert("J1/n_0", Fault::Drift, minutes) };
                let alert = if over { cleared(&alert) } else { alert };
                memory.put_alerts(std::slice::from_ref(&alert)).await.unwrap();
                if known > 0 {
                    memory.acknowledge(&alert.id, &acknowledged(known)).await.unwrap();
                }
                let is = if over {
                    AlertStatus::Cleared
                } else if known >= occurrences {
                    AlertStatus::Acknowledged
                } else {
                    AlertStatus::Open
                };
                if status.is_none_or(|(_, wanted)| wanted == is) {
                    expected.push(alert.id.to_string());
                }
            }
            let query = status.map_or_else(String::new, |(name, _)| format!("status={name}"));
            assert_eq!(ids(&api.all("/v1/alerts", &query, limit).await), expected);
        });
    }
}
