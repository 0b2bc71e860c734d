//! The whole way of a reading over HTTP: configuration, readings, stream, plan, decisions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use greenwave::serve::{Host, Options, ServeError, signal_adjustment_settings};
use greenwave::stream::{lane_of, shard_of};
use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::plan::{DecisionRecord, PlanStage};
use shared::units::Timestamp;
use signal_adjustment::record::decide_again;
use tempfile::TempDir;
use tests::junction::{at, configuration, configuration_in_mode, detector, signal_state, step};
use tests::{Answer, Client, eventually};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Nobody waits in the north and south, where it is green; a platoon waits in the east and west.
const CROSS_TRAFFIC: [f64; 8] = [0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 8.0, 0.0];
const EMPTY: [f64; 8] = [0.0; 8];

/// A host that answers on a port of its own.
struct City {
    client: Client,
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl City {
    fn start(directory: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let host = runtime.block_on(Host::start(directory, 0, Options::default())).unwrap();
        let client = Client::new(host.address());
        let (stop, stopped) = oneshot::channel();
        let router = host.router();
        let served = runtime.spawn(host.serve(router, async { drop(stopped.await) }));
        Self { client, runtime, stop, served }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.runtime.block_on(self.served).unwrap().unwrap();
    }

    fn configure(&self, document: &Value) -> Answer {
        let answer = self.client.send_json("PUT", &format!("/v1/intersections/{}", document["id"].as_str().unwrap()), &[], document);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer
    }

    fn post(&self, readings: &[Value]) {
        let answer = self.client.send_json("POST", "/v1/readings", &[], &json!(readings));
        assert_eq!((answer.status, answer.json()), (202, json!({"accepted": readings.len(), "rejected": []})));
    }

    fn get_plan(&self, id: &str) -> Answer {
        self.client.get(&format!("/v1/intersections/{id}/plan"))
    }

    /// The plan that rests on readings of this time.
    fn plan_as_of(&self, id: &str, time: Timestamp) -> Answer {
        eventually(&format!("the plan of {id} as of {time}"), || {
            let answer = self.get_plan(id);
            (answer.status == 200 && answer.json()["as_of"] == json!(time)).then_some(answer)
        })
    }

    fn decisions(&self, id: &str) -> Vec<DecisionRecord> {
        let answer = self.client.get(&format!("/v1/intersections/{id}/decisions"));
        assert_eq!((answer.status, &answer.json()["next_cursor"]), (200, &Value::Null));
        serde_json::from_value(answer.json()["items"].clone()).unwrap()
    }

    /// Returns when all readings of `J1` that were posted before are processed: a batch of a lane starts only when the one
    /// before it is done, so the second step of a neighbour in the same lane comes after everything else.
    fn settle(&self) {
        let place = |id| (shard_of(id, 4), lane_of(id, signal_adjustment_settings().parallelization_factor));
        assert_eq!(place("J1"), place("J5"));
        self.configure(&configuration("J5"));
        for seconds in [0, 5] {
            self.post(&step("J5", at(seconds), EMPTY));
            self.plan_as_of("J5", at(seconds));
        }
    }
}

fn city() -> (TempDir, City) {
    let directory = TempDir::new().unwrap();
    let city = City::start(directory.path());
    (directory, city)
}

/// A city in which `J1` has served its green long enough while others wait.
fn city_with_a_plan() -> (TempDir, City) {
    let (directory, city) = city();
    city.configure(&configuration("J1"));
    city.post(&waiting_step("J1"));
    city.plan_as_of("J1", at(5));
    (directory, city)
}

fn waiting_step(id: &str) -> Vec<Value> {
    [step(id, at(5), CROSS_TRAFFIC), vec![signal_state(id, at(5), "0", 23.0)]].concat()
}

fn stages(plan: &Value) -> Vec<&str> {
    plan["stages"].as_array().unwrap().iter().map(|entry| entry["stage"].as_str().unwrap()).collect()
}

#[test]
fn a_step_of_readings_becomes_a_plan_that_begins_with_the_running_stage() {
    let (_directory, city) = city();
    city.configure(&configuration("J1"));
    let missing = city.get_plan("J1");
    assert_eq!((missing.status, &missing.json()["code"]), (404, &json!("not_found")));

    city.post(&waiting_step("J1"));
    let plan = city.plan_as_of("J1", at(5)).json();

    assert_eq!((&plan["intersection_id"], &plan["revision"], &plan["source"]), (&json!("J1"), &json!(1), &json!("adaptive")));
    assert_eq!((&plan["as_of"], &plan["valid_until"]), (&json!("2026-11-22T08:00:05.000Z"), &json!("2026-11-22T08:00:35.000Z")));
    assert_eq!(plan["reason"]["code"], "queue_pressure");
    // Green since 23 s, which end now; then 4 s of clearance and the platoon.
    assert_eq!(plan["stages"][0], json!({"stage": "0", "start": "2026-11-22T07:59:42.000Z", "green_s": 23.0}));
    assert_eq!((&plan["stages"][1]["stage"], &plan["stages"][1]["start"]), (&json!("2"), &json!("2026-11-22T08:00:09.000Z")));
}

#[test]
fn each_new_step_gives_a_newer_plan_and_the_revision_grows_with_its_stages_alone() {
    let (_directory, city) = city_with_a_plan();
    let mut before = city.get_plan("J1").json();
    for seconds in (10..60).step_by(5) {
        city.post(&step("J1", at(seconds), CROSS_TRAFFIC));
        let plan = city.plan_as_of("J1", at(seconds)).json();
        let changed = plan["stages"] != before["stages"];
        assert_eq!(plan["revision"].as_u64().unwrap(), before["revision"].as_u64().unwrap() + u64::from(changed), "{before} -> {plan}");
        before = plan;
    }
}

#[test]
fn a_plan_that_the_client_knows_is_not_sent_again() {
    let (_directory, city) = city_with_a_plan();
    let plan = city.get_plan("J1");
    let again = |etag: &str| city.client.send("GET", "/v1/intersections/J1/plan", &[("if-none-match", etag)], &[]);

    let known = again(plan.header("etag"));
    assert_eq!((known.status, known.text.as_str(), known.header("etag")), (304, "", plan.header("etag")));
    assert_eq!(again("\"another\"").text, plan.text);

    city.post(&step("J1", at(10), CROSS_TRAFFIC));
    city.plan_as_of("J1", at(10));
    let newer = again(plan.header("etag"));
    assert_eq!(newer.status, 200);
    assert_ne!(newer.header("etag"), plan.header("etag"));
}

#[test]
fn plans_are_listed_by_the_beginning_of_their_ids() {
    let (_directory, city) = city();
    let ids = ["north-1", "north-2", "north-3", "south-1"];
    for id in ids {
        city.configure(&configuration(id));
        city.post(&step(id, at(5), EMPTY));
        city.plan_as_of(id, at(5));
    }
    city.configure(&configuration("north-4"));

    let list = |query: &str| {
        let page = city.client.get(&format!("/v1/plans?{query}")).json();
        let ids: Vec<_> = page["items"].as_array().unwrap().iter().map(|plan| plan["intersection_id"].clone()).collect();
        (json!(ids), page["next_cursor"].clone())
    };
    assert_eq!(list(""), (json!(ids), Value::Null));
    assert_eq!(list("prefix=north-"), (json!(ids[..3]), Value::Null));
    let (first, cursor) = list("prefix=north-&limit=2");
    assert_eq!(first, json!(ids[..2]));
    assert_eq!(list(&format!("prefix=north-&limit=2&cursor={}", cursor.as_str().unwrap())), (json!(ids[2..3]), Value::Null));
    let plan = city.get_plan("south-1").json();
    assert_eq!(city.client.get("/v1/plans?prefix=south-").json()["items"][0], plan);
}

#[test]
fn a_decision_tells_why_and_gives_the_same_plan_when_it_is_decided_again() {
    let (_directory, city) = city_with_a_plan();
    for seconds in (10..40).step_by(5) {
        city.post(&step("J1", at(seconds), [2.0, 0.0, 7.5, 0.0, 1.0, 3.0, 0.0, 0.5]));
        city.plan_as_of("J1", at(seconds));
    }
    let document = city.client.get("/v1/intersections/J1").json();
    let intersection = Intersection::try_from(document).unwrap();

    let decisions = city.decisions("J1");
    assert!(decisions.len() > 2, "{decisions:#?}");
    let first = &decisions[0];
    assert_eq!((first.as_of, first.previous.as_ref(), first.reason.code.as_str()), (at(5), None, "queue_pressure"));
    assert!(first.reason.text.starts_with("Changing to stage 2 means "), "{}", first.reason.text);
    let cheapest = first.candidates.iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).unwrap();
    assert_eq!((first.candidates.len(), cheapest.stage.as_str()), (4, "2"));

    for record in &decisions {
        let again = decide_again(&intersection, record).unwrap();
        let plan = again.plan.unwrap();
        let stage = |entry: &signal_adjustment::plan::PlannedStage| PlanStage {
            stage: intersection.stages()[entry.stage].id.clone(),
            start: entry.start,
            green_s: entry.green,
        };
        let stages: Vec<_> = plan.stages().iter().map(stage).collect();
        assert_eq!((&stages, plan.as_of(), plan.valid_until()), (&record.next.stages, record.next.as_of, record.next.valid_until));
        assert_eq!((again.source, &again.reason), (record.next.source, &record.reason));
        assert_eq!((&again.candidates, &again.distrusted), (&record.candidates, &record.distrusted));
    }
}

#[test]
fn a_reading_that_comes_again_or_too_late_changes_nothing() {
    let (_directory, city) = city_with_a_plan();
    city.post(&step("J1", at(10), CROSS_TRAFFIC));
    let (plan, decisions) = (city.plan_as_of("J1", at(10)), city.decisions("J1"));

    city.post(&step("J1", at(10), CROSS_TRAFFIC));
    city.post(&[detector("J1", "n_0", at(10), 40.0)]);
    city.post(&waiting_step("J1"));
    city.post(&[signal_state("J1", at(9), "3", 1.0)]);
    city.post(&step("J1", at(0), [40.0; 8]));
    city.settle();

    let after = city.get_plan("J1");
    assert_eq!((after.header("etag"), &after.text), (plan.header("etag"), &plan.text));
    assert_eq!(city.decisions("J1"), decisions);
}

#[test]
fn readings_of_an_intersection_that_nobody_configured_are_accepted_and_make_no_plan() {
    let (_directory, city) = city();
    city.post(&step("J1", at(5), CROSS_TRAFFIC));
    city.settle();
    assert_eq!(city.get_plan("J1").status, 404);
    assert_eq!(city.client.get("/v1/plans?prefix=J1").json()["items"], json!([]));

    city.configure(&configuration("J1"));
    city.post(&step("J1", at(10), CROSS_TRAFFIC));
    assert_eq!(city.plan_as_of("J1", at(10)).json()["revision"], 1);
}

#[test]
fn a_removed_intersection_shows_no_plan_and_comes_back_under_another_configuration() {
    let (_directory, city) = city_with_a_plan();
    let before = city.get_plan("J1").json();
    let removed = city.client.send("DELETE", "/v1/intersections/J1", &[], &[]);
    assert_eq!(removed.status, 204);
    assert_eq!(city.get_plan("J1").status, 404);
    assert_eq!(city.client.get("/v1/plans").json()["items"], json!([]));

    let mut other = configuration("J1");
    other["control"]["plan_ttl_s"] = json!(60);
    city.configure(&other);
    city.post(&step("J1", at(10), CROSS_TRAFFIC));
    let plan = city.plan_as_of("J1", at(10)).json();
    assert_eq!(plan["valid_until"], json!(at(70)));
    assert_eq!(plan["revision"].as_u64().unwrap(), before["revision"].as_u64().unwrap() + 1);
}

#[test]
fn a_configuration_is_replaced_only_by_who_has_seen_it_and_rules_the_next_step() {
    let (_directory, city) = city_with_a_plan();
    let etag = city.client.get("/v1/intersections/J1").header("etag").to_owned();
    let put = |headers: &[(&str, &str)], mode: &str| {
        city.client.send_json("PUT", "/v1/intersections/J1", headers, &configuration_in_mode("J1", mode)).status
    };
    assert_eq!(put(&[], "shadow"), 428);
    assert_eq!(put(&[("if-match", "\"stale\"")], "shadow"), 412);
    assert_eq!(put(&[("if-match", &etag)], "shadow"), 200);
    assert_eq!(put(&[("if-match", &etag)], "adaptive"), 412);

    city.post(&step("J1", at(10), CROSS_TRAFFIC));
    assert_eq!(city.plan_as_of("J1", at(10)).json()["source"], "shadow");
}

#[test]
fn the_mode_of_a_junction_says_who_decides() {
    let (_directory, city) = city();
    for (id, mode, source, code) in [
        ("J1", "adaptive", "adaptive", "queue_pressure"),
        ("J2", "shadow", "shadow", "queue_pressure"),
        ("J3", "time_of_day", "time_of_day", "time_of_day_mode"),
    ] {
        city.configure(&configuration_in_mode(id, mode));
        city.post(&waiting_step(id));
        let plan = city.plan_as_of(id, at(5)).json();
        assert_eq!((&plan["source"], &plan["reason"]["code"]), (&json!(source), &json!(code)), "{id}");
    }
    // Advice and decision are the same, only nobody follows the one.
    let stages_of = |id| city.get_plan(id).json()["stages"].clone();
    assert_eq!(stages_of("J1"), stages_of("J2"));
    assert_ne!(stages_of("J1"), stages_of("J3"));
}

#[test]
fn a_detector_that_cannot_be_trusted_has_no_say_and_is_named() {
    let (_directory, city) = city();
    city.configure(&configuration("J1"));
    city.post(&step("J1", at(5), EMPTY));
    // In the next steps one lane reports a fault, one reports what cannot be, and one falls silent.
    for seconds in [10, 15, 20] {
        let mut readings = step("J1", at(seconds), EMPTY);
        readings[0]["fault"] = json!("communication");
        readings[2]["volume"] = json!(1000);
        readings.remove(4);
        city.post(&readings);
    }
    let plan = city.plan_as_of("J1", at(20)).json();
    assert_eq!(plan["source"], "time_of_day");
    assert_eq!(plan["reason"], json!({"code": "no_trusted_detector", "text": "Stage 0 has no trusted detector left."}));

    let decisions = city.decisions("J1");
    let named = |place: usize| {
        let named = decisions[place].distrusted.iter().map(|d| (d.detector_id.as_str(), d.reason.as_str()));
        named.filter(|(detector, _)| !detector.ends_with("out")).collect::<Vec<_>>()
    };
    assert_eq!((decisions[0].as_of, named(0)), (at(5), vec![]));
    assert_eq!((decisions[1].as_of, named(1)), (at(10), vec![("n_0", "fault_reported"), ("s_0", "implausible")]));

    // One of the two lanes of stage 0 is enough to decide again.
    city.post(&[detector("J1", "n_0", at(25), 0.0)]);
    assert_eq!(city.plan_as_of("J1", at(25)).json()["source"], "adaptive");
    let decisions = city.decisions("J1");
    let last = decisions.last().unwrap();
    let reasons: Vec<_> = last.distrusted.iter().map(|d| (d.detector_id.as_str(), d.reason.as_str())).collect();
    assert!(reasons.contains(&("s_0", "implausible")) && reasons.contains(&("e_0", "silent")), "{reasons:?}");
    assert!(reasons.contains(&("n_out", "never_seen")) && !reasons.iter().any(|(id, _)| *id == "n_0"), "{reasons:?}");
}

#[test]
fn a_silent_detector_is_alerted_acknowledged_and_cleared_and_has_no_say_meanwhile() {
    let (_directory, city) = city();
    city.configure(&configuration("J1"));
    let steps = |from: i64, to: i64, silent: bool| {
        for seconds in (from..to).step_by(5) {
            let mut readings = step("J1", at(seconds), CROSS_TRAFFIC);
            readings.retain(|reading| !(silent && reading["detector_id"] == "n_0"));
            city.post(&readings);
        }
    };
    let alerts = |status: &str| {
        let answer = city.client.get(&format!("/v1/alerts?asset_id=J1%2Fn_0&status={status}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["items"].as_array().unwrap().first().cloned()
    };
    steps(5, 30, false);
    steps(30, 360, true);
    let alert = eventually("an open alert", || alerts("open"));
    assert_eq!((&alert["asset_id"], &alert["fault"], &alert["occurrences"]), (&json!("J1/n_0"), &json!("no_data"), &json!(1)));
    let health = city.client.get("/v1/assets/J1%2Fn_0/health").json();
    assert_eq!((&health["state"], &health["fault"]), (&json!("alarm"), &json!("no_data")));

    let path = format!("/v1/alerts/{}", alert["id"].as_str().unwrap());
    let known = city.client.send_json("POST", &format!("{path}/acknowledgement"), &[], &json!({"by": "Ada", "note": "On my way."}));
    assert_eq!((known.status, &known.json()["status"]), (200, &json!("acknowledged")));
    assert_eq!((alerts("open"), alerts("acknowledged")), (None, Some(known.json())));

    // From the next step on, its lane is no matter of its detector.
    city.post(
        &waiting_step("J1")
            .into_iter()
            .map(|mut reading| {
                reading["time"] = json!(at(360));
                reading
            })
            .collect::<Vec<_>>(),
    );
    city.plan_as_of("J1", at(360));
    let named = city.decisions("J1").into_iter().flat_map(|decision| decision.distrusted).any(|d| d.reason == "in_alarm");
    assert!(named, "no decision tells that n_0 is in alarm");

    steps(365, 480, false);
    let cleared = eventually("a cleared alert", || alerts("cleared"));
    assert_eq!((&cleared["id"], &cleared["acknowledgement"]["by"]), (&alert["id"], &json!("Ada")));
    assert_eq!(city.client.send_json("POST", &format!("{path}/acknowledgement"), &[], &json!({"by": "Bob"})).status, 409);
}

#[test]
fn readings_may_come_packed() {
    let (_directory, city) = city();
    city.configure(&configuration("J1"));
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(json!({"readings": waiting_step("J1")}).to_string().as_bytes()).unwrap();
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let answer = city.client.send("POST", "/v1/readings", &headers, &packed.finish().unwrap());
    assert_eq!((answer.status, answer.json()), (202, json!({"accepted": 9, "rejected": []})));
    assert_eq!(stages(&city.plan_as_of("J1", at(5)).json())[..2], ["0", "2"]);
}

#[test]
fn of_a_mixed_request_the_valid_readings_take_effect() {
    let (_directory, city) = city();
    city.configure(&configuration("J1"));
    let mut readings = waiting_step("J1");
    readings[1]["occupancy"] = json!(7);
    let answer = city.client.send_json("POST", "/v1/readings", &[], &json!(readings));
    assert_eq!((answer.status, &answer.json()["accepted"]), (207, &json!(8)));
    assert_eq!((&answer.json()["rejected"][0]["index"], &answer.json()["rejected"][0]["pointer"]), (&json!(1), &json!("/occupancy")));
    assert_eq!(stages(&city.plan_as_of("J1", at(5)).json())[..2], ["0", "2"]);
}

#[test]
fn a_host_that_is_started_again_goes_on_where_it_stopped() {
    let (directory, city) = city_with_a_plan();
    let (plan, decisions) = (city.get_plan("J1"), city.decisions("J1"));
    city.stop();

    let city = City::start(directory.path());
    let kept = city.get_plan("J1");
    assert_eq!((&kept.text, kept.header("etag")), (&plan.text, plan.header("etag")));
    assert_eq!(city.decisions("J1"), decisions);

    let (mut revision, mut records) = (1, decisions.len());
    for seconds in [10, 15, 20, 25] {
        city.post(&step("J1", at(seconds), CROSS_TRAFFIC));
        let plan = city.plan_as_of("J1", at(seconds)).json();
        assert!(plan["revision"].as_u64().unwrap() >= revision, "{plan}");
        revision = plan["revision"].as_u64().unwrap();
    }
    assert!(revision > 1, "the stages never changed");
    let after = city.decisions("J1");
    assert_eq!(after[..decisions.len()], decisions);
    records = after.len() - records;
    assert!(records > 0 && after.is_sorted_by(|a, b| a.as_of < b.as_of), "{records} new decisions");
}
