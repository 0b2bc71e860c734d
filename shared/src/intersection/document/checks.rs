//! What the parts of a configuration must be to each other: conflicts, walking times, the time-of-day plan, the way out.

use std::collections::HashMap;

use crate::fields::{At, Faults};
use crate::intersection::{CONTROLLER_CYCLE, Intersection, MovementSet, Stage, Turn};
use crate::units::Deciseconds;

pub(super) fn movements(intersection: &Intersection, faults: &mut Faults) {
    let served = intersection.stages.iter().fold(MovementSet::default(), |all, stage| all.union(stage.movements()));
    let list = At::Root.field("movements");
    for (i, movement) in intersection.movements.iter().enumerate().filter(|(i, _)| !served.contains(*i)) {
        faults.add(&list.index(i), "movement_unserved", format!("movement '{}' is green in no stage", movement.id));
    }
}

pub(super) fn conflicts(intersection: &Intersection, faults: &mut Faults) {
    let list = At::Root.field("stages");
    for (i, stage) in intersection.stages.iter().enumerate() {
        for &(a, b) in &intersection.conflicts {
            if stage.protected.contains(a) && stage.protected.contains(b) {
                let names = [a, b].map(|m| intersection.movements.get(m).map_or("", |m| m.id.as_str()));
                let message = format!("movements '{}' and '{}' conflict and cannot both be protected", names[0], names[1]);
                faults.add(&list.index(i).field("protected"), "conflict_in_stage", message);
            }
        }
    }
}

pub(super) fn pedestrians(intersection: &Intersection, needed_by: &HashMap<usize, Deciseconds>, faults: &mut Faults) {
    let timing_at = At::Root.field("timing");
    let list = timing_at.field("pedestrian");
    for (i, movement) in intersection.movements.iter().enumerate() {
        let place = list.field(movement.id.as_str());
        let on_foot = movement.turn == Turn::Pedestrian;
        match needed_by.get(&i) {
            Some(_) if !on_foot => faults.add(&place, "unknown_id", format!("movement '{}' is not a pedestrian one", movement.id)),
            None if on_foot => faults.add(&place, "missing_field", "walk_s and clearance_s are required for a pedestrian movement"),
            Some(&needed) => {
                for stage in intersection.stages.iter().filter(|s| s.movements().contains(i) && s.green_min < needed) {
                    let message =
                        format!("walk and clearance take {needed}, but stage '{}' has a green_min_s of {}", stage.id, stage.green_min);
                    faults.add(&place, "pedestrian_time", message);
                }
            }
            None => {}
        }
    }
}

pub(super) fn time_of_day(intersection: &Intersection, faults: &mut Faults) {
    const CODE: &str = "time_of_day_plan_limit";
    let plan = &intersection.time_of_day.stages;
    let plan_at = At::Root.field("time_of_day_plan");
    let list = plan_at.field("stages");
    for (i, &(number, green)) in plan.iter().enumerate() {
        let Some(stage) = intersection.stages.get(number) else { continue };
        if !(stage.green_min..=stage.green_max).contains(&green) {
            let message = format!("must be from {} to {} for stage '{}'", stage.green_min, stage.green_max, stage.id);
            faults.add(&list.index(i).field("green_s"), CODE, message);
        }
        if plan.len() > 1 && plan.get((i + 1) % plan.len()).is_some_and(|next| next.0 == number) {
            faults.add(&list.index(i).field("stage"), CODE, format!("stage '{}' follows itself", stage.id));
        }
    }
    for (m, movement) in intersection.movements.iter().enumerate() {
        match red_in_plan(intersection, m) {
            None => faults.add(&list, CODE, format!("movement '{}' is never green", movement.id)),
            Some(red) if red > intersection.red_max => {
                let message = format!("movement '{}' is red for {red}, longer than red_max_s of {}", movement.id, intersection.red_max);
                faults.add(&list, CODE, message);
            }
            Some(_) => {}
        }
    }
}

/// Longest red of a movement in the time-of-day plan; none if it is never green.
pub(in crate::intersection) fn red_in_plan(intersection: &Intersection, movement: usize) -> Option<Deciseconds> {
    let plan = &intersection.time_of_day.stages;
    let green = |entry: &(usize, Deciseconds)| intersection.movements_of(entry.0).contains(movement);
    let first = plan.iter().position(green)?;
    let (mut red, mut longest) = (Deciseconds::ZERO, Deciseconds::ZERO);
    let mut before: Option<&(usize, Deciseconds)> = None;
    for entry in plan.iter().cycle().skip(first).take(plan.len() + 1) {
        if let Some(before) = before {
            let clearance = intersection.clearance(before.0);
            if green(entry) {
                // Green in both stages: the movement keeps its green through the change.
                longest = longest.max(if green(before) { Deciseconds::ZERO } else { red + clearance });
                red = Deciseconds::ZERO;
            } else {
                red = red + clearance + entry.1;
            }
        }
        before = Some(entry);
    }
    Some(longest)
}

/// Picks the stage with the most movements not yet served until all are.
pub(super) fn cover(intersection: &Intersection) -> Vec<usize> {
    let mut left: MovementSet = (0..intersection.movements.len()).collect();
    let mut cover = Vec::new();
    while !left.is_empty() {
        let gain = |stage: &Stage| left.len() - left.minus(stage.movements()).len();
        let best = intersection.stages.iter().enumerate().max_by_key(|(i, stage)| (gain(stage), std::cmp::Reverse(*i)));
        match best {
            Some((i, stage)) if gain(stage) > 0 => {
                left = left.minus(stage.movements());
                cover.push(i);
            }
            _ => break,
        }
    }
    cover
}

/// A controller looks at its plan once a second, and sets out for a stage one clearance before its green, whatever the plan has in
/// between. A stage must therefore last a second longer, with the clearances around it, than the way past it: else a controller
/// may leave for the next stage without having shown this one. That can happen after a stage that it follows without a clearance. The
/// way past several stages follows from that.
pub(super) fn skipped(intersection: &Intersection, faults: &mut Faults) {
    let list = At::Root.field("stages");
    let stages = intersection.stages.iter().enumerate();
    for (middle, stage) in stages.clone() {
        let ways = stages.clone().flat_map(|from| stages.clone().map(move |to| (from, to)));
        let others = ways.filter(|((from, _), (to, _))| *from != middle && middle != *to && from != to);
        let past_it = others.map(|((from, a), (to, b))| {
            let past = intersection.clearance_between(from, to);
            let through = intersection.clearance_between(from, middle) + intersection.clearance_between(middle, to);
            ((past + CONTROLLER_CYCLE).saturating_sub(through), past, a, b)
        });
        if let Some((shortest, past, a, b)) = past_it.max_by_key(|(shortest, ..)| *shortest).filter(|way| stage.green_min < way.0) {
            let message = format!(
                "stage '{}' may be skipped: a controller leaves '{}' for '{}' {past} ahead; \
                 green_min_s must be at least {shortest}, or their clearances less different",
                stage.id, a.id, b.id
            );
            faults.add(&list.index(middle), "stage_skipped", message);
        }
    }
}

pub(super) fn cover_cycle(intersection: &Intersection, faults: &mut Faults) {
    if intersection.stages.len() == 1 {
        return;
    }
    let cycle = intersection.cover_cycle();
    if cycle > intersection.red_max {
        let message = format!("serving every movement once at its shortest green takes {cycle}; red_max_s must not be shorter");
        faults.add(&At::Root.field("timing").field("red_max_s"), "red_max_unreachable", message);
    }
}
