//! What the junction of `events/intersection.json` decides, and why.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

mod scene;

use serde_json::json;
use shared::plan::{PlanSource, PublishedPlan};
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use signal_adjustment::control::Limit;
use signal_adjustment::junction::{Folded, Junction};
use signal_adjustment::record::{decide_again, record};
use signal_adjustment::signal::Phase;

use crate::scene::{LANES, at, decide, detector, first, intersection, reading, signal, step};

/// The second stage of a plan, and how many seconds after the step its green begins.
fn next(plan: &PublishedPlan) -> (&str, i64) {
    let next = &plan.stages[1];
    (next.stage.as_str(), (next.start.as_millis() - plan.as_of.as_millis()) / 1000)
}

#[test]
fn the_stage_with_most_waiting_vehicles_is_next() {
    let junction = intersection(|_| {});
    let (_, decision, plan) = first(&junction, &step("0", 20.0, 0, [0, 1, 0, 1, 2, 9, 2, 8]));
    assert_eq!(plan.reason.code, "queue_pressure");
    // Yellow 3 s and red clearance 1 s from now on.
    assert_eq!(next(&plan), ("3", 4));
    assert_eq!(plan.source, PlanSource::Adaptive);
    let cheapest = decision.candidates.iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).unwrap();
    assert_eq!(cheapest.stage.as_str(), "3");
}

#[test]
fn a_queue_that_is_almost_served_is_served_before_a_longer_one() {
    let junction = intersection(|_| {});
    let (_, _, plan) = first(&junction, &step("0", 20.0, 0, [3, 0, 0, 0, 4, 0, 0, 0]));
    // Three vehicles need almost six seconds; yellow and red clearance take four.
    let (stage, start) = next(&plan);
    assert_eq!(stage, "2");
    assert!((4 + 4..=8 + 4).contains(&start), "{plan:?}");
}

#[test]
fn a_stage_turns_green_when_its_vehicles_arrive_not_when_they_have_stopped() {
    let junction = intersection(|_| {});
    let arriving = |away_m: usize| {
        let bin = away_m / 25;
        let moving: Vec<u32> = (0..8).map(|b| if b == bin { 3 } else { 0 }).collect();
        let speeds: Vec<Option<f64>> = (0..8).map(|b| (b == bin).then_some(45.0)).collect();
        json!({"profile": {"bin_m": 25, "vehicles": moving, "moving": moving, "speed_mean_kmh": speeds}})
    };
    let mut readings = step("0", 20.0, 0, [0; 8]);
    // 100 m at 12.5 m/s are 8 s, and the clearance takes four of them.
    readings[5] = detector("e_0", 0, &arriving(100));
    let (_, _, plan) = first(&junction, &readings);
    let (stage, start) = next(&plan);
    assert_eq!(stage, "2");
    assert!((4..=9).contains(&start), "{plan:?}");
    assert_eq!(plan.reason.code, "queue_pressure");
}

#[test]
fn turning_vehicles_that_stand_at_a_green_get_right_of_way_before_crossing_traffic_gets_green() {
    let junction = intersection(|document| {
        document["stages"][0]["permitted"] = json!(["n_left", "s_left"]);
        document["control"]["planner"] = json!({"stranding_cost_s": 60});
    });
    let standing = |vehicles: u32| json!({"profile": {"bin_m": 25, "vehicles": [vehicles], "moving": [0], "speed_mean_kmh": [null]}});
    for (n_left, next_stage) in [(0, "2"), (2, "1")] {
        let mut readings = step("0", 20.0, 0, [0, 0, 0, 0, 2, 0, 2, 0]);
        readings[2] = detector("n_1", 0, &standing(n_left));
        assert_eq!(next(&first(&junction, &readings).2).0, next_stage, "{n_left} vehicles stand");
    }
}

#[test]
fn a_lane_that_stands_in_its_green_does_not_keep_it_unless_its_exit_is_full() {
    let junction = intersection(|_| {});
    let lane = |bin_m: u32, moving: u32| {
        let speed = (moving > 0).then_some(30.0);
        json!({"profile": {"bin_m": bin_m, "vehicles": [3, 3], "moving": [0, moving], "speed_mean_kmh": [null, speed]}})
    };
    let cases = [
        ("the second three move", 20.0, lane(25, 3), 0, true),
        ("nobody moves", 20.0, lane(25, 0), 0, false),
        ("nobody moves yet", 5.0, lane(25, 0), 0, true),
        ("the bins do not tell who stands at the head", 20.0, lane(100, 0), 0, true),
        // 27 vehicles fit into the 200 m that are seen, and from 40 % on the exit is what holds them up.
        ("ten stand in the exit", 20.0, lane(25, 0), 10, false),
        ("eleven stand in the exit", 20.0, lane(25, 0), 11, true),
    ];
    for (case, elapsed, profile, in_exit, kept) in cases {
        let mut readings = step("0", elapsed, 0, [0, 0, 0, 0, 4, 0, 0, 0]);
        readings[1] = detector("n_0", 0, &profile);
        readings.push(detector("s_out", 0, &json!({"queue": in_exit})));
        let (_, decision, plan) = first(&junction, &readings);
        // Four seconds are the clearance.
        assert_eq!(next(&plan).1 > 4 + 5, kept, "{case}: {plan:?}");
        assert_eq!(decision.reason.code == "queue_pressure", !kept, "{case}: {plan:?}");
    }
}

#[test]
fn greens_start_later_where_turns_that_give_way_share_more_than_one_lane_with_through_vehicles() {
    let cost = |turns: &[(&str, &str)], right_of_way: &str, green_for: f64, (stage, queues): (&str, [u32; 8]), margin_s: f64| {
        let junction = intersection(|document| {
            for (lane, exit) in turns {
                let turn = json!({"id": format!("{lane}_right"), "from_lane": lane, "to_exit": exit, "turn": "right"});
                document["movements"].as_array_mut().unwrap().push(turn);
                document["stages"][2][right_of_way].as_array_mut().unwrap().push(json!(format!("{lane}_right")));
            }
            // Who gives way discharges like the others, so that the margin is all that tells them apart.
            document["control"]["planner"] = json!({"give_way_margin_s": margin_s, "permitted_share": 1});
        });
        let (_, decision, _) = first(&junction, &step("0", green_for, 0, queues));
        decision.candidates.iter().find(|candidate| candidate.stage.as_str() == stage).unwrap().cost
    };
    let six_at = |lane: &str| LANES.map(|l| if l == lane { 6 } else { 0 });
    let both = [("e_0", "n_out"), ("w_0", "s_out")];
    for (turns, right_of_way) in [(&both[..], "protected"), (&both[..1], "permitted"), (&[], "permitted")] {
        let cost = |margin_s| cost(turns, right_of_way, 20.0, ("2", six_at("e_0")), margin_s);
        let more = cost(2.0) - cost(0.0);
        assert!(more.abs() < 0.01, "{turns:?} {right_of_way}: {more}");
    }
    // In the stage with these turns and in another, six vehicles wait for two seconds more.
    for (stage, lane) in [("2", "e_0"), ("3", "e_1")] {
        let cost = |margin_s| cost(&both, "permitted", 20.0, (stage, six_at(lane)), margin_s);
        let more = cost(2.0) - cost(0.0);
        assert!((more - 12.0).abs() < 0.01, "stage {stage}: {more}");
    }
    // Those whom the running stage leaves behind at its maximum green are fewer, as more of its yellow is used.
    let cost = |margin_s| cost(&both, "permitted", 50.0, ("2", six_at("n_0")), margin_s);
    assert!(cost(2.0) < cost(0.0) - 6.0, "{} {}", cost(2.0), cost(0.0));
}

#[test]
fn how_far_ahead_a_stage_is_not_clear_may_be_set() {
    let cost = |clear_ahead_s: u32| {
        let junction = intersection(|document| document["control"]["planner"] = json!({"clear_ahead_s": clear_ahead_s}));
        let profile = json!({
            "bin_m": 25, "vehicles": [3, 0, 0, 1, 0, 1, 0, 1], "moving": [0, 0, 0, 1, 0, 1, 0, 1], "speed_mean_kmh": vec![30; 8],
        });
        let mut readings = vec![signal("0", 30.0, 0, "adaptive")];
        readings.extend(LANES.map(|lane| detector(lane, 0, &json!({"profile": profile}))));
        first(&junction, &readings).1.candidates.iter().map(|candidate| candidate.cost).sum::<f64>()
    };
    assert!((cost(0) - cost(12)).abs() > 1.0, "{} {}", cost(0), cost(12));
}

#[test]
fn no_more_yellow_is_used_than_there_is() {
    let cost = |yellow_used_s: u32| {
        let junction = intersection(|document| document["control"]["planner"] = json!({"yellow_used_s": yellow_used_s}));
        let (_, decision, _) = first(&junction, &step("0", 30.0, 0, [9, 0, 9, 0, 9, 0, 9, 0]));
        decision.candidates[2].cost
    };
    // Three of the four seconds between the greens are yellow.
    assert!(cost(2) > cost(3) + 1.0, "{} {}", cost(2), cost(3));
    assert!((cost(3) - cost(5)).abs() < f64::EPSILON, "{} {}", cost(3), cost(5));
}

/// Since when the running green is on after reports of stage 0: their time, `stage_elapsed_s` and mode.
fn green_since(reports: &[(i64, f64, &str)]) -> Timestamp {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    // The detectors come first: what the signal shows is assumed until it is reported.
    let assumed: Vec<_> = LANES.iter().map(|lane| detector(lane, -5, &json!({"queue": 1}))).collect();
    decide(&mut state, &junction, &assumed);
    let mut since = None;
    for &(seconds, elapsed, mode) in reports {
        let mut readings = step("0", elapsed, seconds, [1; 8]);
        readings[0] = signal("0", elapsed, seconds, mode);
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        let Phase::Green { stage: 0, since: on } = inputs.state.phase else { panic!("{:?}", inputs.state.phase) };
        since = Some(on);
    }
    since.unwrap()
}

#[test]
fn a_green_is_as_old_as_all_reports_of_it_allow() {
    let adaptive = "adaptive";
    assert_eq!(green_since(&[(0, 3.0, adaptive)]), at(-3), "the first report is believed, whatever was assumed");
    assert_eq!(green_since(&[(0, 3.0, adaptive), (5, 8.0, adaptive)]), at(-3));
    for wrong in [0.0, 90.0] {
        assert_eq!(green_since(&[(0, 3.0, adaptive), (5, wrong, adaptive)]), at(-3), "{wrong}");
    }
    assert_eq!(green_since(&[(0, 600.0, "flash"), (5, 3.0, adaptive)]), at(2), "after flashing it began anew");
    assert_eq!(green_since(&[(0, 600.0, adaptive), (100, 3.0, adaptive)]), at(97), "there was time for other stages");
}

#[test]
fn a_movement_is_red_since_its_clearance_began_however_long_that_takes_but_not_since_an_earlier_one() {
    let junction = intersection(|_| {});
    let red_after = |gap: i64| {
        let mut state = Junction::unknown(&junction);
        let clearing = |seconds: i64| {
            let mut readings = step("0", 0.0, seconds, [1; 8]);
            readings[0] = reading(&json!({
                "type": "signal_state", "intersection_id": "J1", "time": at(seconds), "stage": "0", "stage_elapsed_s": 0,
                "clearing_to": "2", "clearance_remaining_s": 4, "mode": "adaptive",
            }));
            readings
        };
        decide(&mut state, &junction, &clearing(0));
        let (inputs, ..) = decide(&mut state, &junction, &clearing(gap));
        let ended = junction.movements_of(0).minus(junction.movements_of(2)).iter().next().unwrap();
        inputs.state.red_since[ended].unwrap()
    };
    let began = at(4) - junction.clearance(0);
    assert_eq!(red_after(5), began);
    assert_eq!(red_after(400), began + Deciseconds::from_secs(400));
}

#[test]
fn a_stage_keeps_its_minimum_green_whatever_waits() {
    let junction = intersection(|_| {});
    // Stage 0 serves pedestrians: 7 s to walk, 11 s to clear.
    let (_, decision, plan) = first(&junction, &step("0", 6.0, 0, [0, 0, 0, 0, 40, 0, 40, 0]));
    assert_eq!((plan.reason.code.as_str(), decision.limits), ("green_min", vec![Limit::GreenMin]));
    assert_eq!(next(&plan), ("2", 18 - 6 + 4));
}

#[test]
fn a_stage_ends_at_its_maximum_green_although_more_wait_for_it() {
    let junction = intersection(|_| {});
    let (_, decision, plan) = first(&junction, &step("0", 50.0, 0, [30, 0, 30, 0, 1, 0, 0, 0]));
    assert_eq!((plan.reason.code.as_str(), decision.limits[0]), ("green_max", Limit::GreenMax));
    assert_eq!(next(&plan).1, 4);
}

#[test]
fn a_movement_is_served_before_its_red_gets_too_long_although_nobody_is_seen() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut served = vec![];
    let (mut stage, mut since) = ("0".to_owned(), 0);
    for seconds in (0..600).step_by(5) {
        let elapsed = f64::from(u32::try_from(seconds - since).unwrap());
        // A queue that never ends for the through movements of one road.
        let (_, _, plan) = decide(&mut state, &junction, &step(&stage, elapsed, seconds, [20, 0, 20, 0, 0, 0, 0, 0]));
        // The controller follows; changes are looked at every 5 s here, so a green may begin up to 4 s before a step.
        let now = at(seconds + 5);
        let shown = plan.stages.iter().rev().find(|s| s.start <= now).unwrap();
        if shown.stage.as_str() != stage {
            stage = shown.stage.as_str().to_owned();
            since = (shown.start.as_millis() - at(0).as_millis()) / 1000;
            served.push(stage.clone());
        }
    }
    for id in ["0", "1", "2", "3"] {
        let times = served.iter().filter(|s| *s == id).count();
        assert!(times >= 4, "stage {id} was served {times} times in 10 minutes: {served:?}");
    }
}

#[test]
fn a_detector_loses_its_say_when_it_is_silent_at_fault_or_absurd() {
    let junction = intersection(|_| {});
    for (said, reason) in [
        (Some(json!({"queue": 3, "fault": "erratic"})), "fault_reported"),
        (Some(json!({"queue": 1e6})), "implausible"),
        (Some(json!({"volume": 11, "queue": 1})), "implausible"),
        (Some(json!({"speed_mean_kmh": 400, "queue": 1})), "implausible"),
        (None, "never_seen"),
    ] {
        let mut readings = step("0", 20.0, 0, [1; 8]);
        match &said {
            Some(measures) => readings[5] = detector("e_0", 0, measures),
            None => drop(readings.remove(5)),
        }
        let (_, decision, _) = first(&junction, &readings);
        let distrusted: Vec<_> = decision.distrusted.iter().map(|d| (d.detector_id.as_str(), d.reason.as_str())).collect();
        let expected: Vec<_> = std::iter::once(("e_0", reason)).collect();
        assert_eq!(distrusted.iter().filter(|(id, _)| LANES.contains(id)).copied().collect::<Vec<_>>(), expected, "{said:?}");
    }
}

#[test]
fn a_detector_has_a_say_until_three_of_its_periods_have_passed_without_it() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("0", 20.0, 0, [1; 8]));
    for (seconds, distrusted) in [(5, false), (10, false), (15, true)] {
        let mut readings = step("0", 20.0, seconds, [1; 8]);
        readings.remove(5);
        let (_, decision, _) = decide(&mut state, &junction, &readings);
        assert_eq!(decision.distrusted.iter().any(|d| d.detector_id.as_str() == "e_0"), distrusted, "after {seconds} s");
    }
}

#[test]
fn without_a_trusted_detector_for_a_stage_the_time_of_day_plan_takes_over_and_says_why() {
    let junction = intersection(|_| {});
    let mut readings = step("0", 20.0, 0, [1; 8]);
    readings.retain(|r| !matches!(r, SensorReading::Detector(d) if ["e_1", "w_1"].contains(&d.detector_id.as_str())));
    let (_, _, plan) = first(&junction, &readings);
    assert_eq!((plan.source, plan.reason.code.as_str()), (PlanSource::TimeOfDay, "no_trusted_detector"));
    assert!(plan.reason.text.contains('3'), "{}", plan.reason.text);
}

#[test]
fn the_time_of_day_plan_finds_back_to_its_place_in_the_cycle() {
    let junction = intersection(|document| document["control"]["mode"] = json!("time_of_day"));
    // Cycle: 30 + 10 + 25 + 10 s of green and 4 clearances of 4 s.
    assert_eq!(junction.time_of_day_cycle().tenths(), 910);
    let mut state = Junction::unknown(&junction);
    // The signal says stage 2 while the cycle says something else; nothing but the clock leads it.
    let _ = state.fold(&junction, &signal("2", 3.0, 0, "adaptive"));
    let mut plan = state.decide(&junction).2.unwrap();
    for seconds in (5..600).step_by(5) {
        let _ = state.fold(&junction, &detector("n_0", seconds, &json!({"queue": 1})));
        plan = state.decide(&junction).2.unwrap();
        assert_eq!((plan.source, plan.reason.code.as_str()), (PlanSource::TimeOfDay, "time_of_day_mode"));
    }
    // The next green begins when the cycle says: entry 0 at its offset, 0 s.
    let cycle = i64::from(junction.time_of_day_cycle().tenths()) * 100;
    let next = plan.stages.iter().find(|entry| entry.stage.as_str() == "0").unwrap();
    assert_eq!(next.start.as_millis().rem_euclid(cycle), 0, "{plan:?}");
}

#[test]
fn a_signal_that_others_run_gets_its_time_of_day_plan() {
    let junction = intersection(|_| {});
    for (mode, code) in [("flash", "controller_flash"), ("preempted", "controller_preempted"), ("manual", "controller_manual")] {
        let mut readings = step("0", 20.0, 0, [1; 8]);
        readings[0] = signal("0", 20.0, 0, mode);
        let (_, _, plan) = first(&junction, &readings);
        assert_eq!((plan.source, plan.reason.code.as_str()), (PlanSource::TimeOfDay, code));
    }
}

#[test]
fn a_step_in_two_parts_gives_the_same_stages_as_in_one() {
    let junction = intersection(|_| {});
    let (mut whole, mut parts) = (Junction::unknown(&junction), Junction::unknown(&junction));
    for seconds in (0..60).step_by(5) {
        let queues = [3, 1, 4, 1, 5, 9, 2, 6].map(|q: u32| q * u32::try_from(seconds).unwrap() % 11);
        let readings = step("0", 20.0, seconds, queues);
        let (_, _, expected) = decide(&mut whole, &junction, &readings);
        decide(&mut parts, &junction, &readings[..4]);
        let (_, _, plan) = decide(&mut parts, &junction, &readings[4..]);
        assert_eq!((plan.stages, plan.reason), (expected.stages, expected.reason));
    }
}

#[test]
fn late_replayed_and_foreign_readings_change_nothing() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("0", 20.0, 0, [1; 8]));
    decide(&mut state, &junction, &step("0", 25.0, 5, [2; 8]));
    let before = state.clone();
    for (reading, expected) in [
        (detector("n_0", 5, &json!({"queue": 50})), Folded::Replayed),
        (signal("1", 0.0, 5, "manual"), Folded::Replayed),
        (detector("n_0", 4, &json!({"queue": 50})), Folded::Late),
        (signal("1", 0.0, 4, "manual"), Folded::Late),
        (detector("nowhere", 5, &json!({"queue": 50})), Folded::Ignored),
        (
            reading(&json!({"type": "controller_event", "intersection_id": "J1", "time": at(9), "code": 82, "parameter": 5})),
            Folded::Ignored,
        ),
    ] {
        assert_eq!(state.fold(&junction, &reading), expected, "{reading:?}");
        assert_eq!(state, before, "{reading:?}");
    }
}

#[test]
fn a_decision_can_be_made_again_from_its_record() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut previous = None;
    for seconds in (0..120).step_by(5) {
        let mut readings = step("0", 20.0, seconds, [3, 1, 4, 1, 5, 9, 2, 6].map(|q: u32| q * u32::try_from(seconds).unwrap() % 13));
        readings.remove(usize::try_from(seconds / 5 % 9).unwrap());
        let (inputs, decision, plan) = decide(&mut state, &junction, &readings);
        let written = record(&junction, &inputs, &decision, previous.as_ref(), &plan);
        let read = serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(decide_again(&junction, &read).unwrap(), decision);
        previous = Some(plan);
    }
}

#[test]
fn a_record_from_before_queues_were_kept_gives_the_same_decision_where_all_lanes_are_seen() {
    let junction = intersection(|_| {});
    let (inputs, decision, plan) = first(&junction, &step("0", 20.0, 0, [3, 1, 4, 1, 5, 9, 2, 6]));
    let mut written = serde_json::to_value(record(&junction, &inputs, &decision, None, &plan)).unwrap();
    assert!(written["inputs"].as_object_mut().unwrap().remove("queues").is_some());
    assert_eq!(decide_again(&junction, &serde_json::from_value(written).unwrap()).unwrap(), decision);
}

#[test]
fn a_state_survives_its_bytes_and_a_four_leg_junction_takes_less_than_a_kilobyte() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    for seconds in (0..600).step_by(5) {
        let queues = [3, 1, 4, 1, 5, 9, 2, 6].map(|q: u32| q * u32::try_from(seconds).unwrap() % 60);
        let (_, _, plan) = decide(&mut state, &junction, &step("0", 20.0, seconds, queues));
        let bytes = state.to_bytes().unwrap();
        assert_eq!(Junction::from_bytes(&bytes).unwrap(), state);
        // What is left of the kilobyte pays for the keys and the names of the attributes.
        let item = bytes.len() + plan.to_bytes().unwrap().len();
        assert!(item < 850, "{item} bytes");
    }
}

#[test]
fn another_configuration_forgets_what_belonged_to_the_old_one_but_not_the_time() {
    let old = intersection(|_| {});
    let new = intersection(|document| document["timing"]["green_max_s"] = json!(40));
    let mut state = Junction::unknown(&old);
    let (_, _, before) = decide(&mut state, &old, &step("0", 20.0, 10, [1; 8]));
    let mut state = state.under(&new);
    assert_eq!(state.fold(&new, &detector("n_0", 5, &json!({"queue": 1}))), Folded::Late);
    let (_, _, after) = decide(&mut state, &new, &step("0", 25.0, 15, [1; 8]));
    assert!(after.revision > before.revision);
}

#[test]
fn what_another_version_stored_is_forgotten_but_not_its_time() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let _ = decide(&mut state, &junction, &step("0", 20.0, 0, [3; 8]));
    let bytes = state.to_bytes().unwrap();
    let (layout, rest): (u64, &[u8]) = postcard::take_from_bytes(&bytes).unwrap();
    // Format 1 had the layout as it is.
    let earlier = [postcard::to_stdvec(&(layout ^ 3)).unwrap(), rest.to_vec()].concat();
    let read = Junction::from_bytes(&earlier).unwrap().under(&junction);
    assert_eq!((read.as_of(), read == state), (at(0), false));
    assert_eq!(Junction::from_bytes(&bytes).unwrap().under(&junction), state);
}

#[test]
fn readings_that_cannot_be_used_leave_the_plan_in_force() {
    let junction = intersection(|_| {});
    let (mut asked, mut undisturbed) = (Junction::unknown(&junction), Junction::unknown(&junction));
    for state in [&mut asked, &mut undisturbed] {
        decide(state, &junction, &step("0", 20.0, 0, [0, 0, 0, 0, 9, 0, 9, 0]));
    }
    for seconds in [1, 2, 3] {
        for reading in [detector("nowhere", seconds, &json!({"queue": 1})), signal("nowhere", 1.0, seconds, "adaptive")] {
            assert!(!asked.begins_step(&junction, &reading));
            assert_eq!(asked.fold(&junction, &reading), Folded::Ignored);
        }
    }
    let next = [detector("n_0", 5, &json!({"queue": 1}))];
    assert_eq!(decide(&mut asked, &junction, &next).2, decide(&mut undisturbed, &junction, &next).2);
}

#[test]
fn another_name_or_limit_leaves_the_running_stage_and_the_reds_known() {
    let old = intersection(|_| {});
    let new = intersection(|document| {
        document["name"] = json!("renamed");
        document["timing"]["green_max_s"] = json!(40);
    });
    let mut state = Junction::unknown(&old);
    decide(&mut state, &old, &step("0", 20.0, 0, [0, 0, 0, 0, 9, 0, 9, 0]));
    // Stage 2 began 4 s after the step; without a report, that is known from the plan alone.
    let mut state = state.under(&new);
    let (inputs, _, plan) = decide(&mut state, &new, &[detector("n_0", 5, &json!({"queue": 1}))]);
    assert_eq!((plan.stages[0].stage.as_str(), plan.stages[0].start), ("2", at(4)));
    assert_eq!(inputs.state.red_since[0], Some(at(0)));
}

#[test]
fn a_clearance_that_cannot_be_is_not_believed() {
    let junction = intersection(|_| {});
    let report = |remaining: f64| {
        reading(&json!({
            "type": "signal_state", "intersection_id": "J1", "time": at(0), "stage": "0", "stage_elapsed_s": 20,
            "clearing_to": "2", "clearance_remaining_s": remaining,
        }))
    };
    // Configured are 3 s and 1 s; a controller may need some seconds more.
    assert_eq!(Junction::unknown(&junction).fold(&junction, &report(14.0)), Folded::New);
    assert_eq!(Junction::unknown(&junction).fold(&junction, &report(14.1)), Folded::Ignored);
}

#[test]
fn a_long_period_buys_no_trust_beyond_the_life_of_a_plan() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut readings = step("0", 20.0, 0, [1; 8]);
    readings[5] = reading(&json!({
        "type": "detector", "intersection_id": "J1", "detector_id": "e_0", "time": at(0), "period_s": 86400, "queue": 9,
    }));
    decide(&mut state, &junction, &readings);
    for (seconds, distrusted) in [(25, false), (30, true)] {
        let mut readings = step("0", 20.0, seconds, [1; 8]);
        readings.remove(5);
        let (_, decision, _) = decide(&mut state, &junction, &readings);
        assert_eq!(decision.distrusted.iter().any(|d| d.detector_id.as_str() == "e_0"), distrusted, "after {seconds} s");
    }
}

#[test]
fn a_signal_that_was_run_by_hand_and_says_nothing_more_follows_again() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut readings = step("0", 20.0, 0, [1; 8]);
    readings[0] = signal("0", 20.0, 0, "manual");
    decide(&mut state, &junction, &readings);
    for (seconds, source) in [(30, PlanSource::TimeOfDay), (35, PlanSource::Adaptive)] {
        let (_, _, plan) = decide(&mut state, &junction, &step("0", 20.0, seconds, [1; 8])[1..]);
        assert_eq!(plan.source, source, "after {seconds} s");
    }
}

#[test]
fn a_stage_seen_after_a_gap_leaves_the_reds_before_it_at_their_longest() {
    let junction = intersection(|document| document["control"]["plan_ttl_s"] = json!(60));
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("0", 20.0, 0, [9, 0, 9, 0, 0, 0, 0, 0]));
    // 65 s later stage 3 has been green for 20 s: stages 1 and 2 may have been between, so stage 0 may have ended at once.
    let (inputs, _, _) = decide(&mut state, &junction, &step("3", 20.0, 65, [0; 8]));
    assert_eq!(inputs.state.red_since[0], Some(at(0)));
    // 5 s later there was no time for a stage between.
    let (inputs, _, _) = decide(&mut state, &junction, &step("0", 0.0, 70, [0; 8]));
    assert_eq!(inputs.state.red_since[5], Some(at(66)));
}

#[test]
fn a_controller_a_second_behind_its_plan_has_followed_it() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let (_, _, plan) = decide(&mut state, &junction, &step("0", 30.0, 0, [8, 0, 8, 0, 0, 4, 0, 4]));
    let [first, second, third, ..] = &plan.stages[..] else { panic!("{plan:?}") };
    // Nothing is heard until the second stage should be over: it is still shown.
    let over = second.start + second.green_s;
    assert!(over <= plan.valid_until && third.start > over, "{plan:?}");
    let seconds = (over.as_millis() - at(0).as_millis()) / 1000;
    let elapsed = over.since(second.start).as_secs();
    let (inputs, ..) = decide(&mut state, &junction, &[signal(second.stage.as_str(), elapsed, seconds, "adaptive")]);
    // What the first one served is red since the plan ended it, not since the last report.
    let movement = junction.movements_of(0).iter().next().unwrap();
    assert_eq!(inputs.state.red_since[movement], Some(first.start + first.green_s), "{plan:?}");
}

#[test]
fn a_controller_that_changes_in_the_second_of_its_report_has_followed_its_plan() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let (_, _, plan) = decide(&mut state, &junction, &step("0", 30.0, 0, [8, 0, 8, 0, 0, 4, 0, 4]));
    let [first, second, ..] = &plan.stages[..] else { panic!("{plan:?}") };
    let seconds = (second.start.as_millis() - at(0).as_millis()) / 1000;
    let (inputs, ..) = decide(&mut state, &junction, &[signal(second.stage.as_str(), 0.0, seconds, "adaptive")]);
    let movement = junction.movements_of(0).iter().next().unwrap();
    assert_eq!(inputs.state.red_since[movement], Some(first.start + first.green_s), "{plan:?}");
}

#[test]
fn readings_of_clocks_that_differ_within_a_second_are_one_step() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let late = |reading: &SensorReading, millis: i64| match reading.clone() {
        SensorReading::Detector(mut r) => {
            r.time = r.time.plus_millis(millis);
            SensorReading::Detector(r)
        }
        other => other,
    };
    let readings = step("0", 20.0, 0, [1; 8]);
    let skewed: Vec<_> = readings.iter().zip([0, 137, 45, 999, 1, 350, 12, 600, 7]).map(|(reading, by)| late(reading, by)).collect();
    for reading in &skewed {
        assert_eq!(state.fold(&junction, reading), Folded::New, "{reading:?}");
    }
    let plan = state.decide(&junction).2.unwrap();
    assert_eq!((plan.as_of, plan.source), (at(0).plus_millis(999), PlanSource::Adaptive));
}
