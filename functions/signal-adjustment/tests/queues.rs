//! Who waits on the lanes of the junction of `events/intersection.json`, by what its detectors say and do not say.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

mod scene;

use serde_json::{Value, json};
use shared::intersection::Planner;
use shared::reading::SensorReading;
use signal_adjustment::control::Inputs;
use signal_adjustment::estimate::served;
use signal_adjustment::junction::Junction;
use signal_adjustment::record::{decide_again, record};

use crate::scene::{LANES, at, decide, detector, first, intersection, reading, signal, step};

#[test]
fn what_counts_as_waiting_comes_from_the_best_measure_there_is() {
    let junction = intersection(|_| {});
    let speeds = json!([36, 36, 36, 36]);
    let profile =
        json!({"profile": {"bin_m": 25, "vehicles": [1, 1, 3, 2], "moving": [1, 1, 1, 2], "speed_mean_kmh": speeds}, "queue": 50});
    for (measures, waiting, arriving) in [
        // Who stands waits, who moves arrives: from the middle of 25 m at 10 m/s.
        (profile, 2.0, vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 2.0]),
        (json!({"queue": 3, "vehicles": 9, "occupancy": 0.5}), 3.0, vec![]),
        (json!({"vehicles": 9, "occupancy": 0.5}), 9.0, vec![]),
    ] {
        let mut readings = step("2", 30.0, 0, [0; 8]);
        readings[1] = detector("n_0", 0, &measures);
        let (inputs, _, _) = first(&junction, &readings);
        let known = inputs.estimate.detectors()[0];
        assert!((queue_on(&inputs, "n_0") - waiting).abs() < 0.1, "{measures}: {known:?}");
        let mut seconds: Vec<f64> = known.arrivals.vehicles().collect();
        seconds.truncate(seconds.iter().rposition(|&n| n > 0.0).map_or(0, |last| last + 1));
        assert_eq!(seconds, arriving, "{measures}");
    }
}

/// Vehicles that a decision took to wait on a lane.
fn queue_on(inputs: &Inputs, lane: &str) -> f64 {
    inputs.estimate.waiting().nth(LANES.iter().position(|l| *l == lane).unwrap()).unwrap()
}

/// What a decision took to wait on lane `n_0`, step after step of 5 s: what its detector said, the stage shown and for how long.
fn queues_of_n_0(steps: &[(Option<Value>, &str, f64)]) -> Vec<f64> {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut seconds = 0;
    let mut queue = |(said, stage, elapsed): &(Option<Value>, &str, f64)| {
        let mut readings = step(stage, *elapsed, seconds, [0; 8]);
        match said {
            Some(measures) => readings[1] = detector("n_0", seconds, measures),
            None => drop(readings.remove(1)),
        }
        seconds += 5;
        queue_on(&decide(&mut state, &junction, &readings).0, "n_0")
    };
    steps.iter().map(&mut queue).collect()
}

/// What detectors of all kinds say, one kind after the other; of some lanes nobody says anything.
fn of_all_kinds(lane: usize, vehicles: u32) -> Option<Value> {
    let bins = json!({"bin_m": 25, "vehicles": [vehicles, 2], "moving": [0, 2], "speed_mean_kmh": [null, 40.0]});
    match lane % 5 {
        0 => Some(json!({"volume": vehicles % 4})),
        1 => Some(json!({"volume": vehicles % 3, "occupancy": f64::from(vehicles % 11) / 10.0})),
        2 => Some(json!({"occupancy": f64::from(vehicles % 11) / 10.0})),
        3 => Some(json!({"profile": bins})),
        _ => None,
    }
}

/// One step with detectors of all kinds.
fn mixed_step(seconds: i64) -> Vec<SensorReading> {
    let number = u32::try_from(seconds / 5).unwrap();
    let stage = ["0", "1", "2", "3"][usize::try_from(number / 3 % 4).unwrap()];
    let mut readings = vec![signal(stage, f64::from(number % 3) * 5.0 + 1.0, seconds, "adaptive")];
    let said = LANES.iter().enumerate().filter_map(|(at, lane)| Some((lane, of_all_kinds(at, (number * 7 + 3) % 13)?)));
    readings.extend(said.map(|(lane, measures)| detector(lane, seconds, &measures)));
    readings
}

#[test]
fn with_detectors_of_all_kinds_a_step_in_parts_a_stored_state_and_a_record_give_the_same_decision() {
    let junction = intersection(|_| {});
    let (mut whole, mut parts) = (Junction::unknown(&junction), Junction::unknown(&junction));
    let mut reckoned = 0;
    for seconds in (0..300).step_by(5) {
        let readings = mixed_step(seconds);
        let (inputs, decision, plan) = decide(&mut whole, &junction, &readings);
        let (first, second) = readings.split_at(readings.len() / 2);
        decide(&mut parts, &junction, first);
        parts = Junction::from_bytes(&parts.to_bytes().unwrap()).unwrap();
        let again = decide(&mut parts, &junction, second);
        assert_eq!((&again.0, &again.1), (&inputs, &decision), "at {seconds} s");
        let written = record(&junction, &inputs, &decision, None, &plan);
        let read = serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(decide_again(&junction, &read).unwrap(), decision, "at {seconds} s");
        let bytes = whole.to_bytes().unwrap().len();
        assert!(bytes < 850, "{bytes} bytes");
        reckoned += usize::from(queue_on(&inputs, "n_0") > 0.0) + usize::from(queue_on(&inputs, "e_0") > 0.0);
    }
    assert!(reckoned > 60, "{reckoned}");
}

fn assert_queues(steps: &[(Option<Value>, &str, f64)], expected: &[f64]) {
    let queues = queues_of_n_0(steps);
    assert_eq!(queues.len(), expected.len());
    assert!(queues.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.1), "{queues:?} instead of {expected:?}");
}

/// Vehicles a second that lane `n_0` discharges while it is green, in stage 0.
fn flow() -> f64 {
    Planner::default().saturation_flow_vph / 3600.0
}

/// How long `n_0` has been red when stage 2 has been green for 30 s: since the stage before it, by the time-of-day plan, and its clearance.
const RED_S: f64 = 30.0 + 4.0 + 10.0 + 4.0;

#[test]
fn on_a_lane_that_only_counts_wait_those_of_the_usual_rate_since_red_less_those_that_were_counted() {
    // A tenth of a vehicle a second is the prior.
    let counted = |vehicles: f64| Some(json!({"volume": vehicles}));
    let rate = |counts: &[f64]| counts.iter().fold(0.1, |rate: f64, count| rate + 5.0 / 300.0 * (count / 5.0 - rate));
    let red = RED_S * rate(&[0.0]);
    let more = red + 5.0 * rate(&[0.0, 0.0]);
    let green = more + 5.0 * rate(&[0.0, 0.0, 2.0]) - 2.0;
    assert_queues(&[(counted(0.0), "2", 30.0), (counted(0.0), "2", 35.0), (counted(2.0), "0", 1.0)], &[red, more, green]);
    // Where nobody waited, nobody is made up while others have green.
    let empty = Some(json!({"queue": 0}));
    assert_queues(&[(empty, "2", 30.0), (counted(0.0), "2", 35.0)], &[0.0, 5.0 * rate(&[0.0])]);
}

#[test]
fn a_queue_is_over_when_fewer_pass_than_a_queue_discharges_and_lasts_while_as_many_pass() {
    let counted = |vehicles: f64| Some(json!({"volume": vehicles}));
    let last = |count: f64| {
        queues_of_n_0(&[(counted(0.0), "2", 60.0), (counted(0.0), "0", 1.0), (counted(2.0), "0", 6.0), (counted(count), "0", 11.0)])[3]
    };
    assert!(last(1.0) < f64::EPSILON, "{}", last(1.0));
    assert!(last(2.0) > 4.0, "{}", last(2.0));
    // However many were reckoned, who passes at full flow is followed.
    assert_queues(&[(counted(0.0), "0", 30.0), (counted(3.0), "0", 35.0), (counted(3.0), "0", 40.0)], &[0.0, 2.0, 2.0]);
}

#[test]
fn a_loop_shows_whether_somebody_stands_at_the_stop_line() {
    let occupied = |share: f64| Some(json!({"volume": 0, "occupancy": share}));
    assert_queues(&[(occupied(0.0), "2", 30.0), (occupied(1.0), "2", 35.0), (occupied(0.02), "2", 40.0)], &[0.0, 1.0, 0.0]);
    // One vehicle on the loop is one vehicle, however long it stands there: the others are those of the usual rate.
    let standing = queues_of_n_0(&[(occupied(1.0), "2", 30.0), (occupied(1.0), "2", 35.0)]);
    assert!(standing[1] < 6.0, "{standing:?}");
    // Of a loop that does not count, the signal tells how many left.
    let occupancy = |share: f64| Some(json!({"occupancy": share}));
    let green = [(occupancy(0.5), "2", 30.0), (occupancy(0.5), "2", 35.0), (occupancy(0.5), "0", 1.0), (occupancy(0.5), "0", 6.0)];
    assert_queues(&green, &[4.8, 5.3, 5.3 + 0.5 - flow(), 5.3 + 1.0 - 6.0 * flow()]);
}

#[test]
fn a_lane_that_nobody_sees_is_reckoned_with_its_own_rate_or_that_of_the_others_and_what_the_signal_lets_pass() {
    let junction = intersection(|_| {});
    // Nobody counts: 360 vehicles an hour.
    assert_queues(
        &[(None, "2", 30.0), (None, "2", 35.0), (None, "0", 1.0), (None, "0", 6.0)],
        &[4.8, 5.3, 5.3 + 0.5 - flow(), 5.3 + 1.0 - 6.0 * flow()],
    );
    // It counted much until its detector said that it is out of order: 20 minutes of 900 vehicles an hour.
    let mut state = Junction::unknown(&junction);
    for seconds in (0..1200).step_by(5) {
        let mut readings = step("2", 30.0, seconds, [0; 8]);
        readings[1] = detector("n_0", seconds, &json!({"volume": 1.25, "queue": 0}));
        readings[2] = detector("n_1", seconds, &json!({"volume": 0.25, "queue": 0}));
        decide(&mut state, &junction, &readings);
    }
    let mut out_of_order = |seconds: i64| {
        let mut readings = step("2", 30.0, seconds, [0; 8]);
        readings[1] = detector("n_0", seconds, &json!({"volume": 0, "fault": "no_activity"}));
        readings[2] = detector("n_1", seconds, &json!({"volume": 0.25, "fault": "no_activity"}));
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        (queue_on(&inputs, "n_0"), queue_on(&inputs, "n_1"))
    };
    let ((busy, quiet), (busy_later, quiet_later)) = (out_of_order(1200), out_of_order(1205));
    assert!((busy_later - busy - 5.0 * 0.25).abs() < 0.1, "{busy} {busy_later}");
    // The other lanes counted nothing, so nobody has less than the prior.
    assert!((quiet_later - quiet - 5.0 * 0.1).abs() < 0.1, "{quiet} {quiet_later}");
}

#[test]
fn a_lane_without_a_detector_gets_green_before_its_longest_red_although_others_wait_where_they_are_seen() {
    // Seconds until stage 3 is green, which serves e_1 and w_1; nobody is seen on w_1.
    let served_after = |e_1_has_a_detector: bool| {
        let junction = intersection(|document| {
            if !e_1_has_a_detector {
                document["lanes"][5]["detector_id"] = Value::Null;
            }
        });
        let mut state = Junction::unknown(&junction);
        let shown = (0..300_i64).step_by(5).find(|&seconds| {
            let mut readings = step("0", 20.0, seconds, [2, 0, 2, 0, 2, 0, 2, 0]);
            if !e_1_has_a_detector {
                readings.remove(6);
            }
            if seconds > 0 {
                // The plan is followed.
                readings.remove(0);
            }
            decide(&mut state, &junction, &readings).0.state.stage() == 3
        });
        shown.unwrap()
    };
    let (unseen, empty) = (served_after(false), served_after(true));
    assert!(unseen + 20 < empty, "{unseen} s, {empty} s if it is seen to be empty");
}

#[test]
fn what_left_while_a_detector_was_silent_waits_no_more_and_what_arrived_does() {
    let profile = |queue: u32, moving: u32| {
        Some(json!({"volume": 0, "profile": {
            "bin_m": 25, "vehicles": [queue, moving], "moving": [0, moving], "speed_mean_kmh": [null, 45.0],
        }}))
    };
    // Two vehicles are 37.5 m from the stop line, at 12.5 m/s.
    let red = [(profile(3, 2), "2", 30.0), (None, "2", 35.0), (profile(4, 0), "2", 40.0)];
    assert_queues(&red, &[3.0, 5.0, 4.0]);
    let green = [(profile(6, 2), "0", 30.0), (None, "0", 35.0), (None, "0", 40.0)];
    assert_queues(&green, &[6.0, 8.0 - 5.0 * flow(), 8.0 - 10.0 * flow()]);
}

#[test]
fn a_queue_is_the_same_whether_the_signal_reports_every_second_or_every_five() {
    let junction = intersection(|_| {});
    // n_0 counts, of s_0 nobody says anything, and all others count nobody: 20 vehicles an hour after a while.
    let queues = |every: i64| {
        let mut state = Junction::unknown(&junction);
        let mut queues = Vec::new();
        for seconds in (0..=900).step_by(usize::try_from(every).unwrap()) {
            let (stage, since) = if seconds < 870 { ("2", -30) } else { ("0", 870) };
            let mut readings = vec![signal(stage, f64::from(i32::try_from(seconds - since).unwrap()), seconds, "adaptive")];
            if seconds % 5 == 0 {
                let counts = LANES.iter().filter(|lane| **lane != "s_0");
                readings.extend(counts.map(|lane| detector(lane, seconds, &json!({"volume": if seconds > 875 { 2 } else { 0 }}))));
            }
            let (inputs, ..) = decide(&mut state, &junction, &readings);
            if seconds % 5 == 0 {
                queues.push((queue_on(&inputs, "n_0"), queue_on(&inputs, "s_0")));
            }
        }
        queues
    };
    for (step, (fast, slow)) in queues(1).into_iter().zip(queues(5)).enumerate() {
        assert!((fast.0 - slow.0).abs() < 0.6 && (fast.1 - slow.1).abs() < 0.6, "step {step}: {fast:?} {slow:?}");
    }
}

#[test]
fn whoever_arrives_unseen_is_planned_for_where_nobody_would_tell_of_them() {
    let junction = intersection(|_| {});
    let staying = |said: Option<Value>| {
        let mut readings = step("2", 30.0, 0, [0; 8]);
        match said {
            Some(measures) => readings[1] = detector("n_0", 0, &measures),
            None => drop(readings.remove(1)),
        }
        let (inputs, decision, _) = first(&junction, &readings);
        (queue_on(&inputs, "n_0"), decision.candidates[2].cost)
    };
    let ((waiting, unseen), (seen_waiting, seen)) = (staying(None), staying(Some(json!({"queue": RED_S * 0.1}))));
    assert!((waiting - seen_waiting).abs() < 0.1);
    assert!(unseen > seen + 1.0, "{unseen} {seen}");
}

#[test]
fn of_a_detector_in_alarm_neither_the_queue_nor_the_rate_is_believed() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let readings_at = |seconds: i64, state: &mut Junction| {
        let mut readings = step("2", 30.0, seconds, [0; 8]);
        readings[1] = detector("n_0", seconds, &json!({"volume": 3}));
        queue_on(&decide(state, &junction, &readings).0, "n_0")
    };
    for seconds in (0..600).step_by(5) {
        readings_at(seconds, &mut state);
    }
    state.set_in_alarm(&junction, &[junction.detectors().next().unwrap().clone()]);
    let (before, after) = (readings_at(600, &mut state), readings_at(605, &mut state));
    // Nobody else counts: the prior.
    assert!((after - before - 0.5).abs() < 0.05, "{before} {after}");
}

#[test]
fn a_count_after_readings_that_could_not_be_used_makes_up_for_its_own_period_alone() {
    // Out of order through a red and a green in which the model let many pass; then it counts again.
    let broken = || Some(json!({"volume": 0, "fault": "erratic"}));
    let green = (0..8).map(|step| (broken(), "0", 1.0 + 5.0 * f64::from(step)));
    let steps: Vec<_> = std::iter::once((Some(json!({"volume": 0})), "2", 60.0)).chain(green).collect();
    let back = [steps, vec![(Some(json!({"volume": 0})), "0", 41.0), (Some(json!({"volume": 1})), "0", 46.0)]].concat();
    let queues = queues_of_n_0(&back);
    assert!(queues[8] < 1.0 && queues[9] < 1.0 && queues[10] < 1.0, "{queues:?}");
    let counted_red = [back[..9].to_vec(), vec![(Some(json!({"volume": 0})), "2", 1.0)]].concat();
    assert!(queues_of_n_0(&counted_red)[9] < 2.0, "{:?}", queues_of_n_0(&counted_red));
}

#[test]
fn a_rate_that_falls_leaves_no_queue_behind_that_nobody_counted() {
    // 72 vehicles an hour on a lane whose loop counts every second, after a rate of five times as much: so short a period tells nothing.
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut most = 0.0_f64;
    for seconds in 0..1800_i64 {
        let (stage, elapsed) = if seconds % 60 < 30 { ("0", seconds % 30) } else { ("2", seconds % 30) };
        let mut readings = step(stage, f64::from(i32::try_from(elapsed).unwrap()), seconds, [0; 8]);
        let passes = u8::from(seconds % 50 == 20);
        readings[1] = reading(&json!({
            "type": "detector", "intersection_id": "J1", "detector_id": "n_0", "time": at(seconds), "period_s": 1, "volume": passes,
        }));
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        if seconds > 900 {
            most = most.max(queue_on(&inputs, "n_0"));
        }
    }
    assert!(most < 0.04 * junction.red_max().as_secs(), "{most}");
}

#[test]
fn in_a_second_of_green_a_loop_may_be_between_two_vehicles() {
    let queue = |stage: &str| {
        let junction = intersection(|_| {});
        let mut state = Junction::unknown(&junction);
        decide(&mut state, &junction, &step(stage, 20.0, 0, [9, 0, 0, 0, 0, 0, 0, 0]));
        let mut readings = step(stage, 21.0, 1, [0; 8]);
        readings[1] = reading(&json!({
            "type": "detector", "intersection_id": "J1", "detector_id": "n_0", "time": at(1), "period_s": 1, "volume": 0, "occupancy": 0,
        }));
        queue_on(&decide(&mut state, &junction, &readings).0, "n_0")
    };
    assert!(queue("0") > 8.0, "{}", queue("0"));
    assert!(queue("2") < f64::EPSILON, "{}", queue("2"));
}

#[test]
fn after_a_silence_no_more_wait_than_arrive_in_the_longest_red() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("2", 30.0, 0, [0; 8]));
    let mut readings = step("2", 3630.0, 3600, [0; 8]);
    readings.remove(1);
    let (inputs, ..) = decide(&mut state, &junction, &readings);
    let most = 0.1 * junction.red_max().as_secs();
    assert!((queue_on(&inputs, "n_0") - most).abs() < 0.01, "{} of {most}", queue_on(&inputs, "n_0"));
}

#[test]
fn a_stage_is_taken_to_have_served_nobody_if_nobody_knows_when_it_ended() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut readings = step("0", 30.0, 0, [9, 0, 0, 0, 0, 0, 0, 0]);
    let (known, ..) = decide(&mut state, &junction, &readings);
    assert!((queue_on(&known, "n_0") - 9.0).abs() < f64::EPSILON);
    // 10 s later stage 1 ends. Stage 0 may have ended at once.
    readings = step("1", 5.0, 10, [0; 8]);
    readings.remove(1);
    readings[0] = reading(&json!({
        "type": "signal_state", "intersection_id": "J1", "time": at(10), "stage": "1", "stage_elapsed_s": 5.0, "clearing_to": "2",
        "clearance_remaining_s": 3.0, "mode": "adaptive",
    }));
    let (inputs, ..) = decide(&mut state, &junction, &readings);
    assert!(queue_on(&inputs, "n_0") > 8.9, "{}", queue_on(&inputs, "n_0"));
}

#[test]
fn on_a_lane_with_a_turn_that_gives_way_a_pause_is_no_end_of_the_queue() {
    let junction = intersection(|document| {
        let movements = document["movements"].as_array_mut().unwrap();
        movements.iter_mut().find(|m| m["id"] == "n_left").unwrap()["from_lane"] = json!("n_0");
        document["lanes"].as_array_mut().unwrap().retain(|lane| lane["id"] != "n_1");
        document["stages"][0]["permitted"] = json!(["n_left"]);
    });
    let mut state = Junction::unknown(&junction);
    let mut queue = |seconds: i64, stage: &str, elapsed: f64, measures: &Value| {
        let _ = state.fold(&junction, &signal(stage, elapsed, seconds, "adaptive"));
        for lane in LANES.iter().filter(|lane| **lane != "n_1") {
            let said = if *lane == "n_0" { measures.clone() } else { json!({"queue": 0}) };
            let _ = state.fold(&junction, &detector(lane, seconds, &said));
        }
        queue_on(&state.decide(&junction).0, "n_0")
    };
    queue(0, "2", 30.0, &json!({"queue": 9}));
    let nobody = json!({"volume": 0});
    let queues = [(5, 1.0), (10, 6.0), (15, 11.0), (20, 16.0)].map(|(seconds, elapsed)| queue(seconds, "0", elapsed, &nobody));
    assert!(queues[2] > 9.0 && queues[3] < f64::EPSILON, "{queues:?}");
}

#[test]
fn a_lost_count_is_made_up_for_by_what_the_signal_let_pass() {
    let counted = |vehicles: f64| Some(json!({"volume": vehicles}));
    let many = Some(json!({"queue": 11}));
    let lost = [(many.clone(), "0", 30.0), (counted(2.0), "0", 35.0), (None, "0", 40.0), (counted(2.0), "0", 45.0)];
    let queues = queues_of_n_0(&lost);
    // Of the ten seconds, five were counted; in the others as many left as the model lets pass.
    let expected = 11.0 + 15.0 * 0.1 - 2.0 - 2.0 - 5.0 * flow();
    assert!((queues[3] - expected).abs() < 0.3, "{queues:?} {expected}");
}

#[test]
fn more_green_is_no_use_to_those_who_stand_behind_a_loop_that_nobody_leaves() {
    let stuck = |seconds: u32| (Some(json!({"volume": 0, "occupancy": 1})), "0", 1.0 + f64::from(seconds));
    let steps: Vec<_> = std::iter::once((Some(json!({"queue": 9})), "2", 60.0)).chain((0..5).map(|step| stuck(5 * step))).collect();
    let queues = queues_of_n_0(&steps);
    assert!(queues[1] > 8.0 && (queues[5] - 1.0).abs() < 0.01, "{queues:?}");
}

/// What is learnt of the discharge of lane `n_0` in stage 0 from steps with this queue and these counts; `exit` vehicles stand in its exit.
fn learnt(queue: u32, volume: f64, exit: u32, steps: i64) -> f64 {
    learnt_with(&json!({}), queue, volume, exit, steps)
}

fn learnt_with(planner: &Value, queue: u32, volume: f64, exit: u32, steps: i64) -> f64 {
    let junction = intersection(|document| {
        document["control"]["planner"] = planner.clone();
        document["exits"][0]["detector_id"] = json!("out");
        document["timing"]["green_max_s"] = json!(600);
        document["timing"]["red_max_s"] = json!(3600);
    });
    let lane = junction.movements().iter().find(|m| m.to_exit == Some(0)).and_then(|m| m.from_lane).unwrap();
    let stage = (0..junction.stages().len())
        .find(|&stage| junction.movements_of(stage).iter().any(|m| junction.movements()[m].from_lane == Some(lane)))
        .unwrap();
    let mut state = Junction::unknown(&junction);
    let mut learnt = 1.0;
    for number in 0..steps {
        let seconds = 5 * number;
        let elapsed = 10.0 + f64::from(i32::try_from(seconds).unwrap());
        let mut readings = step(junction.stages()[stage].id.as_str(), elapsed, seconds, [0; 8]);
        // One of them moves, or they would be held up.
        let (moving, speed) = if queue > 0 { (1, Some(20.0)) } else { (0, None) };
        let profile = json!({"bin_m": 25, "vehicles": [queue], "moving": [moving], "speed_mean_kmh": [speed]});
        readings[1 + lane] = detector(LANES[lane], seconds, &json!({"volume": volume, "profile": profile}));
        readings.push(detector("out", seconds, &json!({"queue": exit})));
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        let number = served(&junction).position(|pair| pair == (lane, stage)).unwrap();
        learnt = inputs.estimate.discharge()[number].factor();
    }
    learnt
}

#[test]
fn discharge_is_learnt_within_bounds_from_periods_in_which_a_queue_lasts_and_can_leave() {
    // The prior is 2.6 vehicles in 5 s.
    let sample = 3.0 / 5.0 / flow();
    let once = learnt(12, 3.0, 0, 3);
    assert!((1.01..1.0 + 0.2 * (sample - 1.0) + 0.01).contains(&once), "{once}");
    assert!((learnt(12, 3.0, 0, 60) - sample).abs() < 0.02);
    assert!((learnt(12, 8.0, 0, 60) - 1.5).abs() < 0.02);
    assert!((learnt(12, 0.0, 0, 60) - 0.5).abs() < 0.02);
    for (queue, exit) in [(0, 0), (12, 30)] {
        assert!((learnt(queue, 4.0, exit, 60) - 1.0).abs() < f64::EPSILON, "queue {queue}, exit {exit}");
    }
    // A junction may set bounds, weight and what a full exit is.
    let own = json!({"discharge_min": 0.8, "discharge_max": 1.3, "discharge_weight": 0.5, "exit_free_share": 0});
    assert!((learnt_with(&own, 12, 8.0, 0, 20) - 1.0).abs() < f64::EPSILON);
    let own = json!({"discharge_min": 0.8, "discharge_max": 1.3, "discharge_weight": 0.5});
    assert!((learnt_with(&own, 12, 8.0, 0, 20) - 1.3).abs() < 0.02);
    assert!((learnt_with(&own, 12, 0.0, 0, 20) - 0.8).abs() < 0.02);
}

#[test]
fn an_exit_whose_loop_is_stood_upon_takes_fewer() {
    let junction = intersection(|document| document["exits"][0]["detector_id"] = json!("out"));
    let exit = junction.exits()[0].id.clone();
    let lane = junction.movements().iter().find(|m| m.to_exit == Some(0)).and_then(|m| m.from_lane).unwrap();
    let cost = |measures: &Value| {
        let mut queues = [0; 8];
        queues[lane] = 8;
        let mut readings = step("2", 30.0, 0, queues);
        readings.push(detector("out", 0, measures));
        let (_, decision, _) = first(&junction, &readings);
        decision.candidates.iter().map(|candidate| candidate.cost).fold(f64::INFINITY, f64::min)
    };
    let stands = json!({"occupancy": 0.95, "volume": 0});
    // In a discharging queue it is hardly ever free, but they get away.
    for free in [json!({"occupancy": 0.6}), json!({"occupancy": 0.9, "volume": 2}), json!({"volume": 0})] {
        assert!(cost(&stands) > 1.2 * cost(&free), "{exit}, {free}: {} {}", cost(&stands), cost(&free));
    }
}
