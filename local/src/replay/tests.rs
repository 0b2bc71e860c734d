#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::units::Timestamp;
use signal_adjustment::junction::Junction;
use signal_adjustment::record::record;

use super::{Args, ReplayError, run};

const CONFIGURATION: &str = include_str!("../../../events/intersection.json");

/// The record of a decision, with a queue on the left turns of one road.
fn decided() -> Value {
    let intersection = Intersection::from_json(CONFIGURATION).unwrap();
    let mut junction = Junction::unknown(&intersection);
    let time = Timestamp::from_millis(1_795_334_400_000);
    let mut readings = vec![
        json!({"type": "signal_state", "intersection_id": "J1", "time": time, "stage": "0", "stage_elapsed_s": 20, "mode": "adaptive"}),
    ];
    for (lane, queue) in [("n_0", 1), ("n_1", 0), ("s_0", 0), ("s_1", 0), ("e_0", 2), ("e_1", 9), ("w_0", 2), ("w_1", 8)] {
        readings
            .push(json!({"type": "detector", "intersection_id": "J1", "detector_id": lane, "time": time, "period_s": 5, "queue": queue}));
    }
    for reading in readings {
        let reading = shared::wire::parse_reading(&serde_json::value::to_raw_value(&reading).unwrap()).unwrap();
        let _ = junction.fold(&intersection, &reading);
    }
    let (inputs, decision, plan) = junction.decide(&intersection);
    serde_json::to_value(record(&intersection, &inputs, &decision, None, &plan.unwrap())).unwrap()
}

/// What `greenwave replay` says about these files.
fn replay(decision: &Value, configuration: &str) -> (Vec<String>, Result<(), ReplayError>) {
    let directory = tempfile::tempdir().unwrap();
    let args = Args { decision: directory.path().join("decision.json"), configuration: directory.path().join("J1.json") };
    std::fs::write(&args.decision, decision.to_string()).unwrap();
    std::fs::write(&args.configuration, configuration).unwrap();
    let mut said = vec![];
    let outcome = run(&args, |line| said.push(line.to_owned()));
    (said, outcome)
}

#[test]
fn a_decision_is_made_again_with_its_candidates_from_the_cheapest_on() {
    let record = decided();
    for decision in [record.clone(), json!([record]), json!({"items": [record], "next_cursor": null})] {
        let (said, outcome) = replay(&decision, CONFIGURATION);
        outcome.unwrap();
        let lines: Vec<&str> = said[0].lines().collect();
        assert!(lines[0].starts_with("J1 2026-11-22T08:00:00.000Z revision 1: Changing to stage 3 means "), "{said:?}");
        let stages: Vec<&str> = lines[2..6].iter().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!((stages[0], lines[6]), ("3", "  The same plan again."), "{said:?}");
    }
}

#[test]
fn a_record_that_does_not_give_its_plan_is_an_error() {
    let mut record = decided();
    record["next"]["stages"][1]["green_s"] = json!(49.9);
    let (said, outcome) = replay(&record, CONFIGURATION);
    assert!(said[0].ends_with("ANOTHER PLAN than the record says."), "{said:?}");
    assert_eq!(outcome.unwrap_err().to_string(), "1 of 1 decisions came out differently: another version made them, or a file was changed");
}

#[test]
fn files_that_do_not_fit_are_refused_with_the_reason() {
    let record = decided();
    let other = CONFIGURATION.replace("\"green_max_s\": 50", "\"green_max_s\": 45");
    assert_ne!(other, CONFIGURATION);
    let given = Intersection::from_json(&other).unwrap().etag();
    let said =
        format!("no decision was made under the configuration {given}; the newest one under {}", record["configuration"].as_str().unwrap());
    assert_eq!(replay(&record, &other).1.unwrap_err().to_string(), said);
    assert!(matches!(replay(&json!({"items": []}), CONFIGURATION).1, Err(ReplayError::Empty(..))));
    assert!(matches!(replay(&json!({"items": 7}), CONFIGURATION).1, Err(ReplayError::Records(..))));
    let refused = replay(&record, "{}").1.unwrap_err().to_string();
    assert!(refused.contains("/stages is required"), "{refused}");
}

#[test]
fn decisions_of_another_configuration_are_left_out_and_counted_and_a_next_page_is_told_of() {
    let (record, mut foreign) = (decided(), decided());
    foreign["configuration"] = json!("00000000000000000000000000000000");
    let (said, outcome) = replay(&json!({"items": [foreign, record], "next_cursor": "x"}), CONFIGURATION);
    outcome.unwrap();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[1], "1 of 2 decisions were made under another configuration and are left out.");
    assert!(said[2].starts_with("These are the decisions until 2026-11-22T08:00:00.000Z; "), "{said:?}");
}
