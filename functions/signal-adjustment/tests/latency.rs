//! What the junction of `events/intersection.json` learns of the time that its plans take to reach the controller.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

mod scene;

use std::collections::VecDeque;

use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::plan::PlanStage;
use shared::reading::SensorReading;
use shared::units::Deciseconds;
use signal_adjustment::control::Inputs;
use signal_adjustment::junction::Junction;
use signal_adjustment::record::{decide_again, record};

use crate::scene::{LANES, at, decide, first, intersection, reading, signal, step};

const STAGES: [&str; 4] = ["0", "1", "2", "3"];

/// A controller that follows its plan second by second, and the street before it: vehicles wait wherever it is red.
struct Street {
    junction: Intersection,
    state: Junction,
    now: i64,
    stage: usize,
    since: i64,
    /// The next stage, and when it turns green.
    clearing: Option<(usize, i64)>,
    coming: VecDeque<(i64, Vec<PlanStage>)>,
    plan: Vec<PlanStage>,
    mode: &'static str,
    /// How much longer than configured it clears, s.
    clears_longer: i64,
    /// How long after the detectors it reports, s.
    reports_after: i64,
    /// By how many seconds each change of stage was late.
    late: Vec<i64>,
    /// Reports at which it did something else than its plan.
    strayed: usize,
}

impl Street {
    fn new() -> Self {
        Self::with_step(5)
    }

    fn with_step(step_s: i64) -> Self {
        let junction = intersection(|document| document["control"]["step_s"] = json!(step_s));
        Self {
            state: Junction::unknown(&junction),
            junction,
            now: 0,
            stage: 0,
            since: -20,
            clearing: None,
            coming: VecDeque::new(),
            plan: vec![],
            mode: "adaptive",
            clears_longer: 0,
            reports_after: 0,
            late: vec![],
            strayed: 0,
        }
    }

    /// One step of readings, a decision on them, and the seconds up to the next with plans that arrive so late.
    fn step(&mut self, latency_s: i64) -> Inputs {
        let mut readings = self.readings();
        if self.reports_after == 0 {
            readings.push(self.report());
        }
        let inputs = self.decide(&readings, latency_s);
        for second in 0..i64::from(self.junction.control().step.tenths() / 10) {
            if second > 0 && second == self.reports_after {
                self.decide(&[self.report()], latency_s);
            }
            while self.coming.front().is_some_and(|(due, _)| *due <= self.now) {
                self.plan = self.coming.pop_front().unwrap().1;
            }
            self.second();
        }
        inputs
    }

    fn decide(&mut self, readings: &[SensorReading], latency_s: i64) -> Inputs {
        let (inputs, _, plan) = decide(&mut self.state, &self.junction, readings);
        self.strayed += usize::from(self.state.strays(&self.junction, &inputs.state));
        self.state = Junction::from_bytes(&self.state.to_bytes().unwrap()).unwrap();
        self.coming.push_back((self.now + latency_s, plan.stages));
        inputs
    }

    fn readings(&self) -> Vec<SensorReading> {
        let served: &[&str] = match STAGES[self.stage] {
            "0" => &["n_0", "s_0", "n_1", "s_1"],
            "1" => &["n_1", "s_1"],
            "2" => &["e_0", "w_0", "e_1", "w_1"],
            _ => &["e_1", "w_1"],
        };
        let queues = LANES.map(|lane| if served.contains(&lane) { 0 } else { 6 });
        step("0", 0.0, self.now, queues).split_off(1)
    }

    fn report(&self) -> SensorReading {
        let mut report = json!({
            "type": "signal_state", "intersection_id": "J1", "time": at(self.now), "stage": STAGES[self.stage],
            "stage_elapsed_s": self.now - self.since, "mode": self.mode,
        });
        if let Some((to, until)) = self.clearing {
            report["clearing_to"] = json!(STAGES[to]);
            report["clearance_remaining_s"] = json!(until - self.now);
        }
        reading(&report)
    }

    fn second(&mut self) {
        if let Some((to, until)) = self.clearing.filter(|(_, until)| *until <= self.now) {
            (self.stage, self.since, self.clearing) = (to, until, None);
        }
        let number = |entry: &PlanStage| STAGES.iter().position(|stage| *stage == entry.stage.as_str()).unwrap();
        let clearance = |to: usize| i64::from(self.junction.clearance_between(self.stage, to).tenths() / 10);
        let leaves = |entry: &PlanStage| {
            let to = number(entry);
            (entry.start.as_millis() - at(0).as_millis()) / 1000 - if to == self.stage { 0 } else { clearance(to) }
        };
        if self.clearing.is_none()
            && let Some(entry) = self.plan.iter().rev().find(|entry| leaves(entry) <= self.now)
            && number(entry) != self.stage
        {
            let to = number(entry);
            self.late.push(self.now - leaves(entry));
            self.clearing = Some((to, self.now + clearance(to) + self.clears_longer));
        }
        self.now += 1;
    }
}

#[test]
fn a_controller_that_is_on_time_may_be_asked_for_a_change_at_once() {
    let mut street = Street::new();
    for _ in 0..40 {
        assert_eq!(street.step(0).latency, Deciseconds::ZERO);
    }
    assert!(street.late.len() >= 15 && street.late.iter().all(|&late| late == 0), "{:?}", street.late);
}

#[test]
fn once_a_plan_was_late_no_change_is_asked_for_before_the_plan_can_be_there() {
    for (latency_s, step_s) in [(1, 5), (2, 5), (3, 5), (1, 1), (2, 1), (3, 1), (3, 2)] {
        let mut street = Street::with_step(step_s);
        for _ in 0..300 / step_s {
            let learnt = street.step(latency_s).latency;
            assert!(learnt <= Deciseconds::from_secs(latency_s.unsigned_abs().try_into().unwrap()), "{learnt}");
        }
        assert_eq!(street.late[0], latency_s, "the first change is asked for at once: {:?}", street.late);
        // Now and then an earlier change is tried, as the latency may have fallen.
        let late = street.late.iter().filter(|&&late| late > 0).count();
        assert!(street.late.len() >= 20 && late <= 4, "{:?}", street.late);
    }
}

#[test]
fn a_controller_may_report_in_other_seconds_than_the_detectors() {
    for latency_s in 1..=2 {
        let mut street = Street::new();
        street.reports_after = 2;
        let learnt: Vec<_> = (0..60).map(|_| street.step(latency_s).latency).collect();
        let wanted = Deciseconds::from_secs(u32::try_from(latency_s).unwrap());
        assert!(learnt.contains(&wanted) && learnt.iter().all(|learnt| *learnt <= wanted), "{learnt:?}");
    }
}

#[test]
fn changes_that_take_longer_than_configured_are_no_late_plans() {
    let mut street = Street::new();
    street.clears_longer = 2;
    let last = (0..600).map(|_| street.step(0).latency).last();
    assert_eq!(last, Some(Deciseconds::ZERO));
}

#[test]
fn in_shadow_mode_nothing_is_learnt_as_nobody_follows() {
    let learnt = |mode: &str| {
        let mut street = Street::new();
        street.step(2);
        let shadow = intersection(|document| document["control"]["mode"] = json!(mode));
        street.junction = shadow;
        street.step(2).latency
    };
    assert_eq!(learnt("adaptive"), Deciseconds::from_secs(2));
    assert_eq!(learnt("shadow"), Deciseconds::ZERO);
}

#[test]
fn a_controller_whose_plans_come_more_than_four_seconds_late_does_something_else_than_they_say() {
    for (step_s, reports_after, slowest_s) in [(5, 0, 4), (1, 0, 3), (5, 1, 2), (5, 3, 2), (2, 1, 3)] {
        for latency_s in 0..=slowest_s {
            let mut street = Street::with_step(step_s);
            street.reports_after = reports_after;
            (0..500 / step_s).for_each(|_| drop(street.step(latency_s)));
            assert_eq!(street.strayed, 0, "{latency_s} {step_s} {reports_after}");
        }
    }
    for latency_s in [6, 8, 9] {
        let mut street = Street::new();
        (0..100).for_each(|_| drop(street.step(latency_s)));
        assert!(street.strayed > 20, "{latency_s}: {} of {:?}", street.strayed, street.late);
    }
}

#[test]
fn a_controller_that_is_late_by_itself_by_up_to_three_seconds_follows_its_plan() {
    for (clears_longer, strayed) in [(1, 0..=0), (3, 0..=1), (6, 20..=100)] {
        let mut street = Street::new();
        street.clears_longer = clears_longer;
        (0..100).for_each(|_| drop(street.step(2)));
        assert!(strayed.contains(&street.strayed), "{clears_longer}: {}", street.strayed);
    }
}

#[test]
fn a_cabinet_that_refuses_a_change_does_something_else_as_long_as_the_plan_wants_it() {
    let mut street = Street::new();
    (0..4).for_each(|_| drop(street.step(0)));
    let (stage, since) = (street.stage, street.since);
    let mut refuse = |mode: &'static str| {
        street.mode = mode;
        (street.stage, street.since, street.clearing) = (stage, since, None);
        let before = street.strayed;
        street.step(0);
        street.strayed - before
    };
    let strayed: Vec<_> = (0..12).map(|_| refuse("adaptive")).collect();
    assert!(strayed[0] == 0 && strayed.iter().sum::<usize>() >= 8, "{strayed:?}");
    assert_eq!(refuse("manual"), 0);
    // It reports manual control and adaptive control in turn: one step of grace.
    assert_eq!(refuse("adaptive"), 0);
}

/// Seconds from now until the entry of this number begins.
fn until(street: &Street, entry: usize) -> i64 {
    street.plan.get(entry).map_or(i64::MAX, |entry| (entry.start.as_millis() - at(street.now).as_millis()) / 1000)
}

/// The stage that is green is to end soon.
fn is_due(street: &Street) -> bool {
    (1..15).contains(&until(street, 1))
}

/// How often the next report strays from the plan of a street at such a moment, once this has been changed.
fn strays_after(moment: impl Fn(&Street) -> bool, change: impl FnOnce(&mut Street)) -> usize {
    let mut street = Street::new();
    let found = (0..500).any(|_| {
        street.step(0);
        street.clearing.is_none() && street.plan.len() > 1 && moment(&street)
    });
    assert!(found);
    change(&mut street);
    let readings = [street.readings(), vec![street.report()]].concat();
    street.decide(&readings, 0);
    street.strayed
}

/// The stage of this entry has just begun.
fn shows(street: &mut Street, entry: usize) {
    street.stage = STAGES.iter().position(|stage| *stage == street.plan[entry].stage.as_str()).unwrap();
    street.since = street.now;
}

#[test]
fn a_change_that_is_more_than_four_seconds_early_is_something_else_than_the_plan() {
    for (seconds, strays) in [(4, 0), (5, 1)] {
        let early = |street: &mut Street| {
            street.now += until(street, 1) - seconds;
            shows(street, 1);
        };
        assert_eq!(strays_after(|street| (10..25).contains(&until(street, 1)), early), strays, "{seconds}");
    }
}

#[test]
fn a_controller_that_stays_where_it_should_have_left_does_something_else_also_if_the_plan_comes_back_later() {
    let of_two = |document: &mut Value| {
        for list in ["/stages", "/time_of_day_plan/stages"] {
            let is_kept = |entry: &Value| entry.get("id").or(entry.get("stage")).is_some_and(|id| id == "0" || id == "2");
            document.pointer_mut(list).unwrap().as_array_mut().unwrap().retain(is_kept);
        }
        for (stage, turns) in [["n_left", "s_left"], ["e_left", "w_left"]].into_iter().enumerate() {
            document["stages"][stage]["permitted"] = json!(turns);
        }
    };
    let junction = intersection(of_two);
    let mut state = Junction::unknown(&junction);
    let (_, _, plan) = decide(&mut state, &junction, &step("0", 40.0, 0, [2, 0, 2, 0, 8, 0, 8, 0]));
    let [first, second, third, ..] = &plan.stages[..] else { panic!("{plan:?}") };
    let due = (second.start.as_millis() - at(0).as_millis()) / 1000;
    assert!(first.stage == third.stage && third.start > at(due + 5) && at(due + 5) < plan.valid_until, "{plan:?}");
    let elapsed = 45.0 + Deciseconds::from_secs(u32::try_from(due).unwrap()).as_secs();
    let (inputs, ..) = decide(&mut state, &junction, &[signal("0", elapsed, due + 5, "adaptive")]);
    assert!(state.strays(&junction, &inputs.state), "{plan:?}");
}

#[test]
fn nobody_does_something_else_than_a_plan_that_is_over_or_in_shadow_mode_or_was_followed_unheard() {
    assert_eq!(strays_after(is_due, |street| street.now += 20), 1);
    assert_eq!(strays_after(is_due, |street| street.now += 600), 0);
    let shadow = |street: &mut Street| {
        street.junction = intersection(|document| document["control"]["mode"] = json!("shadow"));
        street.now += 20;
    };
    assert_eq!(strays_after(is_due, shadow), 0);
    // It followed the plan for so long that the stage after the next one is green.
    let went_on = |street: &mut Street| {
        street.now += until(street, 2);
        shows(street, 2);
    };
    assert_eq!(strays_after(|street| is_due(street) && until(street, 2) < 25, went_on), 0);
}

#[test]
fn plans_that_come_sooner_than_they_did_are_used_sooner_after_some_changes() {
    let mut street = Street::new();
    (0..20).for_each(|_| drop(street.step(3)));
    (0..200).for_each(|_| drop(street.step(0)));
    assert_eq!(street.step(0).latency, Deciseconds::ZERO);
}

#[test]
fn what_a_controller_does_on_its_own_says_nothing_of_latency() {
    let learnt = |holds_s: i64| {
        let mut street = Street::new();
        street.step(0);
        // Its change was asked for at once, but the next green comes so much later.
        street.clearing = Some((street.stage, street.since + holds_s));
        street.stage = 0;
        (0..2).map(|_| street.step(0).latency).max().unwrap()
    };
    assert_eq!(learnt(2), Deciseconds::from_secs(2));
    assert_eq!(learnt(5), Deciseconds::ZERO);
}

#[test]
fn until_the_plan_is_there_the_stage_goes_on_which_is_no_limit_of_a_candidate() {
    let junction = intersection(|_| {});
    let (inputs, ..) = first(&junction, &step("0", 30.0, 0, [0, 0, 0, 0, 9, 0, 9, 0]));
    for latency_s in 0..=3 {
        let inputs = Inputs { latency: Deciseconds::from_secs(latency_s), ..inputs.clone() };
        let decision = inputs.decide(&junction);
        let plan = decision.plan.unwrap();
        assert_eq!(plan.stages()[0].end(), at(i64::from(latency_s)), "{:?}", decision.candidates);
        let next = &decision.candidates[2];
        assert_eq!((next.change_in_s, &next.limit), (Some(inputs.latency), &None));
        assert_eq!(decision.limits, []);
    }
    // At the end of its longest green it ends in time, whatever is late.
    let (inputs, ..) = first(&junction, &step("0", 49.0, 0, [0, 0, 0, 0, 9, 0, 9, 0]));
    let inputs = Inputs { latency: Deciseconds::from_secs(3), ..inputs };
    let decision = inputs.decide(&junction);
    assert_eq!(decision.candidates[2].change_in_s, Some(Deciseconds::from_secs(1)));
    assert_eq!(decision.plan.unwrap().stages()[0].end(), at(1));
}

#[test]
fn a_latency_between_two_seconds_counts_as_the_later_one() {
    let junction = intersection(|_| {});
    let (inputs, ..) = first(&junction, &step("0", 30.0, 0, [5, 0, 5, 0, 9, 0, 9, 0]));
    let decided = |tenths: u32| Inputs { latency: Deciseconds::new(tenths), ..inputs.clone() }.decide(&junction);
    for tenths in 21..=30 {
        assert_eq!(decided(tenths), decided(30));
    }
    assert_eq!(decided(30).plan.unwrap().stages()[0].end(), at(7));
}

#[test]
fn a_limit_within_the_latency_is_kept_to_the_tenth_and_bars_no_stage_before_it() {
    let junction = intersection(|_| {});
    let (mut inputs, ..) = first(&junction, &step("0", 30.0, 0, [0, 0, 0, 0, 0, 9, 0, 9]));
    inputs.latency = Deciseconds::from_secs(3);
    // The left turns have to be green in 6.9 s, a reserve of 12 s before their longest red, and 4 s of them are a clearance.
    for (movement, red) in junction.movements().iter().zip(&mut inputs.state.red_since) {
        if ["e_left", "w_left"].contains(&movement.id.as_str()) {
            *red = Some(at(0) - junction.red_max().saturating_sub(Deciseconds::new(120 + 69)));
        }
    }
    let decision = inputs.decide(&junction);
    assert_eq!(decision.candidates[3].limit, None, "{:?}", decision.candidates);
    assert_eq!(decision.reason.code, "queue_pressure");
}

#[test]
fn what_is_due_before_the_next_plan_can_be_there_is_decided_now() {
    let junction = intersection(|_| {});
    // Three vehicles are let out before the change: it takes five seconds.
    let (inputs, ..) = first(&junction, &step("0", 30.0, 0, [3, 0, 3, 0, 9, 0, 9, 0]));
    for (latency_s, code, end) in [(0, "hold", 8), (2, "queue_pressure", 5)] {
        let decision = Inputs { latency: Deciseconds::from_secs(latency_s), ..inputs.clone() }.decide(&junction);
        assert_eq!(decision.candidates[2].change_in_s, Some(Deciseconds::from_secs(5)));
        assert_eq!(decision.reason.code, code, "{}", decision.reason.text);
        // Without latency the change is left to the next plan.
        assert_eq!(decision.plan.unwrap().stages()[0].end(), at(end));
    }
}

#[test]
fn a_signal_that_is_run_by_hand_says_nothing_of_latency() {
    let learnt = |mode: &'static str| {
        let mut street = Street::new();
        street.step(2);
        street.mode = mode;
        street.step(2);
        street.mode = "adaptive";
        street.step(2).latency
    };
    assert_eq!(learnt("adaptive"), Deciseconds::from_secs(2));
    assert_eq!(learnt("manual"), Deciseconds::ZERO);
    // Nor does a change that was asked for before the operator let go of it.
    for steps in 1..20 {
        let mut street = Street::new();
        street.mode = "manual";
        (0..steps).for_each(|_| drop(street.step(2)));
        street.mode = "adaptive";
        assert_eq!(street.step(2).latency, Deciseconds::ZERO, "{steps}");
    }
}

/// Its green begins without a clearance: a controller that set out for it before the plan says would arrive at once.
#[test]
fn a_change_that_clears_nothing_is_made_as_soon_as_the_plan_is_there() {
    let junction = intersection(|document| {
        let stages = document["stages"].as_array_mut().unwrap();
        stages.push(json!({"id": "4", "protected": ["n_left"], "permitted": []}));
        stages.push(json!({"id": "5", "protected": ["n_left", "n_through"], "permitted": []}));
    });
    let (inputs, ..) = first(&junction, &step("4", 30.0, 0, [9, 9, 0, 0, 0, 0, 0, 0]));
    for latency_s in 0..=3 {
        let inputs = Inputs { latency: Deciseconds::from_secs(latency_s), ..inputs.clone() };
        let plan = inputs.decide(&junction).plan.unwrap();
        let [running, next, ..] = plan.stages() else { unreachable!("it changes") };
        assert_eq!((running.end(), next.start, next.stage), (at(0), at(0), 5));
    }
}

#[test]
fn a_decision_made_again_from_its_record_takes_the_same_latency() {
    let mut street = Street::new();
    (0..10).for_each(|_| drop(street.step(2)));
    for _ in 0..10 {
        let mut state = street.state.clone();
        let readings = [street.readings(), vec![street.report()]].concat();
        let (inputs, decision, plan) = decide(&mut state, &street.junction, &readings);
        assert!(inputs.latency > Deciseconds::ZERO);
        let record = record(&street.junction, &inputs, &decision, None, &plan);
        assert_eq!(decide_again(&street.junction, &record), Ok(decision));
        street.step(2);
    }
}
