//! A street to test on: any valid intersection, and a cabinet that follows plans to the letter and notes every broken limit.

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::intersection::{Intersection, MovementSet};
use shared::units::{Deciseconds, Timestamp};
use signal_adjustment::plan::PlannedStage;

pub(crate) const EPOCH: i64 = 1_767_225_600_000;

pub(crate) fn at(tenths: i64) -> Timestamp {
    Timestamp::from_millis(EPOCH + tenths * 100)
}

/// Most movements of a junction here: nine listed ones, and one for each stage that lists none.
pub(crate) const MOVEMENTS_MAX: usize = 13;

/// Any valid intersection of 1 to 5 stages and 2 to 9 listed movements, some of them on foot, with limits from loose to tight.
pub(crate) fn any_intersection() -> impl Strategy<Value = Intersection> {
    intersection(0, 0)
}

/// An intersection whose limits leave time for a late plan: some seconds between shortest and longest green, and half a
/// cycle more than the tightest longest red.
pub(crate) fn any_roomy_intersection() -> impl Strategy<Value = Intersection> {
    intersection(8, 50)
}

fn intersection(green_room: u32, red_room: u32) -> impl Strategy<Value = Intersection> {
    let stage = (proptest::collection::vec(any::<bool>(), 9), 3_u32..12, green_room..40, 30_u32..=60, 0_u32..=20, 0_u32..40);
    let stages = proptest::collection::vec(stage, 1..=5);
    (2_usize..=9, stages, red_room..=150, 1_u32..=8, 0_usize..3, 0_u32..60).prop_filter_map(
        "a stage that a controller would skip",
        |(movements, stages, looseness, step, on_foot, offset)| {
            let loose = document(movements, &stages, 3600, step, on_foot, offset);
            let intersection = match Intersection::try_from(loose) {
                Ok(intersection) => intersection,
                Err(faults) => {
                    assert!(faults.iter().all(|fault| fault.code == "stage_skipped"), "{faults:?}");
                    return None;
                }
            };
            // The tightest longest red that this junction allows, and up to 100 % more.
            let shortest = intersection.cover_cycle().tenths() / 10;
            let tightest = (shortest.max(1)..3600)
                .find(|&red| Intersection::try_from(document(movements, &stages, red, step, on_foot, offset)).is_ok());
            let red_max = tightest.map_or(3600, |red| red + red * looseness / 100);
            Some(Intersection::try_from(document(movements, &stages, red_max, step, on_foot, offset)).unwrap_or(intersection))
        },
    )
}

type StageParts = (Vec<bool>, u32, u32, u32, u32, u32);

fn document(movements: usize, stages: &[StageParts], red_max: u32, step: u32, on_foot: usize, offset: u32) -> Value {
    let walks = |m: usize| m >= movements - on_foot.min(movements - 1);
    // About one in eight serves nobody, as a stage for those whom no movement stands for.
    let serving: Vec<usize> = (0..stages.len()).filter(|&s| s == 0 || stages[s].0.iter().take(3).any(|&green| green)).collect();
    let in_stage = |s: usize, m: usize| serving.contains(&s) && (stages[s].0[m] || serving[m % serving.len()] == s || s % movements == m);
    let tenths = |t: u32| f64::from(t) / 10.0;
    let mut overrides = serde_json::Map::new();
    for (i, (_, green_min, more, yellow, red, _)) in stages.iter().enumerate() {
        overrides.insert(
            format!("s{i}"),
            json!({"green_min_s": green_min, "green_max_s": green_min + more, "yellow_change_s": tenths(*yellow), "red_clearance_s": tenths(*red)}),
        );
    }
    let walk: serde_json::Map<_, _> =
        (0..movements).filter(|&m| walks(m)).map(|m| (format!("m{m}"), json!({"walk_s": 1, "clearance_s": 2}))).collect();
    json!({
        "id": "J1", "name": "", "location": null,
        "lanes": (0..movements).map(|m| json!({"id": format!("l{m}"), "length_m": 120.0, "speed_limit_kmh": 50.0, "detector_id": format!("d{m}")})).collect::<Vec<_>>(),
        "exits": [{"id": "x", "length_m": 100.0, "detector_id": null, "to_intersection": null}],
        "movements": (0..movements).map(|m| if walks(m) {
            json!({"id": format!("m{m}"), "turn": "pedestrian"})
        } else {
            json!({"id": format!("m{m}"), "from_lane": format!("l{m}"), "to_exit": "x", "turn": "through"})
        }).collect::<Vec<_>>(),
        "stages": (0..stages.len()).map(|s| json!({
            "id": format!("s{s}"),
            "protected": (0..movements).filter(|&m| in_stage(s, m)).map(|m| format!("m{m}")).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "timing": {"green_min_s": 5, "green_max_s": 50, "yellow_change_s": 3, "red_clearance_s": 0, "red_max_s": red_max, "stages": overrides, "pedestrian": walk},
        "time_of_day_plan": {"offset_s": offset, "stages": stages.iter().enumerate().map(|(i, (_, green_min, more, _, _, green))| {
            json!({"stage": format!("s{i}"), "green_s": green_min + green.min(more)})
        }).collect::<Vec<_>>()},
        "control": {"mode": "adaptive", "step_s": step, "plan_ttl_s": 6 * step},
    })
}

/// What the cabinet shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shown {
    Green { stage: usize, since: i64 },
    Clearing { from: usize, to: usize, until: i64 },
}

/// A cabinet without any caution: it does what the plan says, tenth by tenth, and notes what that breaks.
pub(crate) struct Cabinet<'i> {
    intersection: &'i Intersection,
    pub(crate) shown: Shown,
    pub(crate) red_for: Vec<i64>,
    pub(crate) longest_red: i64,
    pub(crate) broken: Vec<String>,
    /// How long it ran.
    pub(crate) seconds: u64,
}

impl<'i> Cabinet<'i> {
    pub(crate) fn new(intersection: &'i Intersection, now: i64) -> Self {
        let movements = intersection.movements().len();
        Self {
            intersection,
            shown: Shown::Green { stage: 0, since: now },
            red_for: vec![0; movements],
            longest_red: 0,
            broken: vec![],
            seconds: 0,
        }
    }

    /// Follows a plan at an instant: the stage whose span, with the clearance before it, covers now.
    pub(crate) fn follow(&mut self, plan: &[PlannedStage], now: i64) {
        let Shown::Green { stage, since } = self.shown else { return };
        let lead = |entry: &PlannedStage| {
            if entry.stage == stage { Deciseconds::ZERO } else { self.intersection.clearance_between(stage, entry.stage) }
        };
        let want = plan.iter().rev().find(|entry| entry.start - lead(entry) <= at(now)).map(|entry| entry.stage);
        let Some(want) = want.filter(|&want| want != stage) else { return };
        let limits = &self.intersection.stages()[stage];
        let green = now - since;
        if green < i64::from(limits.green_min.tenths()) {
            self.broken.push(format!("at {now} stage {stage} was green for {green} only"));
        }
        let clearance = i64::from(self.intersection.clearance_between(stage, want).tenths());
        self.shown = if clearance == 0 {
            Shown::Green { stage: want, since: now }
        } else {
            Shown::Clearing { from: stage, to: want, until: now + clearance }
        };
    }

    /// Lets the tenth of a second after `now` pass.
    pub(crate) fn tick(&mut self, now: i64, green_max_slack: i64, red_max_slack: i64) {
        let green = match self.shown {
            Shown::Green { stage, since } => {
                let limit = i64::from(self.intersection.stages()[stage].green_max.tenths()) + green_max_slack;
                if now - since > limit && self.intersection.stages().len() > 1 {
                    self.broken.push(format!("at {now} stage {stage} is green for {}", now - since));
                }
                self.intersection.movements_of(stage)
            }
            Shown::Clearing { from, to, .. } => both(self.intersection, from, to),
        };
        for (movement, red) in self.red_for.iter_mut().enumerate() {
            *red = if green.contains(movement) { 0 } else { *red + 1 };
            self.longest_red = self.longest_red.max(*red);
            if *red > i64::from(self.intersection.red_max().tenths()) + red_max_slack {
                self.broken.push(format!("at {now} movement {movement} is red for {red}"));
            }
        }
        if let Shown::Clearing { to, until, .. } = self.shown
            && until <= now + 1
        {
            self.shown = Shown::Green { stage: to, since: until };
        }
    }
}

fn both(intersection: &Intersection, from: usize, to: usize) -> MovementSet {
    let a = intersection.movements_of(from);
    a.minus(a.minus(intersection.movements_of(to)))
}
