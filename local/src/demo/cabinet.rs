//! The controller cabinet at a signal: it can be asked, never forced.
//!
//! It keeps minimum green, yellow, red clearance and the longest red by itself, whatever a plan says, and runs its
//! time-of-day plan when it has no valid one.

use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::plan::{PlanSource, PublishedPlan};
use shared::units::{Deciseconds, Timestamp};

/// What the drivers of a movement see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// They have the right of way.
    Green,
    /// They may go but give way.
    Permitted,
    /// For so long.
    Yellow(Deciseconds),
    Red,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Green { stage: usize, since: Timestamp },
    Clearing { from: usize, since: Timestamp, to: usize, until: Timestamp },
}

/// A signal and its limits.
pub(crate) struct Cabinet {
    intersection: Intersection,
    phase: Phase,
    /// Since when each movement is red; none while it is green.
    red_since: Vec<Option<Timestamp>>,
    plan: Option<PublishedPlan>,
    /// Seconds in which a plan asked for what the limits forbid.
    pub(crate) refused: u32,
    /// Changes that the longest red forced.
    pub(crate) forced: u32,
}

impl Cabinet {
    /// A cabinet that is switched on: the first stage of its time-of-day plan is green, everything else red.
    pub(crate) fn new(intersection: Intersection, now: Timestamp) -> Self {
        let stage = intersection.time_of_day().stages.first().map_or(0, |first| first.0);
        let mut red_since = vec![Some(now); intersection.movements().len()];
        serve(&mut red_since, &intersection, stage, now);
        let phase = Phase::Green { stage, since: now };
        Self { intersection, phase, red_since, plan: None, refused: 0, forced: 0 }
    }

    /// Takes over a plan.
    pub(crate) fn take(&mut self, plan: PublishedPlan) {
        self.plan = Some(plan);
    }

    /// Ends a clearance that is over.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        if let Phase::Clearing { to, until, .. } = self.phase
            && until <= now
        {
            serve(&mut self.red_since, &self.intersection, to, until);
            self.phase = Phase::Green { stage: to, since: until };
        }
    }

    /// Does what the plan says for this second, within the limits. To be called each second.
    pub(crate) fn follow(&mut self, now: Timestamp) {
        let Phase::Green { stage, since } = self.phase else { return };
        let wanted = self.wanted(stage, now);
        if now < since + self.green_min(stage) {
            self.refused += u32::from(wanted != stage && self.valid_plan(now).is_some());
            return;
        }
        let mut next = wanted;
        if !self.keeps_red_max(stage, next, now)
            && let Some(urgent) = self.most_urgent(&self.red_since, stage)
        {
            self.forced += u32::from(urgent != next);
            next = urgent;
        }
        if next != stage {
            let stays = self.intersection.movements_of(next);
            turn_red(&mut self.red_since, self.intersection.movements_of(stage).minus(stays).iter(), now);
            self.phase = Phase::Clearing { from: stage, since, to: next, until: now + self.intersection.clearance(stage) };
        }
    }

    /// What the drivers of a movement see. A movement that the next stage serves too keeps its green but has to give way.
    pub(crate) fn face(&self, movement: usize, now: Timestamp) -> Face {
        let green_in = |stage| self.intersection.movements_of(stage).contains(movement);
        match self.phase {
            Phase::Green { stage, .. } if self.intersection.stages().get(stage).is_some_and(|s| s.protected.contains(movement)) => {
                Face::Green
            }
            Phase::Green { stage, .. } if green_in(stage) => Face::Permitted,
            Phase::Clearing { from, to, .. } if green_in(from) && green_in(to) => Face::Permitted,
            Phase::Clearing { from, until, .. } if green_in(from) => {
                let yellow_for = now.since(until - self.intersection.clearance(from));
                let yellow = self.intersection.stages().get(from).map_or(Deciseconds::ZERO, |s| s.yellow_change);
                if yellow_for < yellow { Face::Yellow(yellow_for) } else { Face::Red }
            }
            _ => Face::Red,
        }
    }

    /// What the signal shows, as the API takes it.
    pub(crate) fn reading(&self, now: Timestamp) -> Value {
        let id = |stage: usize| self.intersection.stages().get(stage).map(|s| s.id.clone());
        let (stage, since, clearing) = match self.phase {
            Phase::Green { stage, since } => (stage, since, None),
            Phase::Clearing { from, since, to, until } => (from, since, Some((to, until))),
        };
        json!({
            "type": "signal_state", "intersection_id": self.intersection.id(), "time": now,
            "stage": id(stage), "stage_elapsed_s": now.since(since),
            "clearing_to": clearing.map(|(to, _)| id(to)),
            "clearance_remaining_s": clearing.map_or(Deciseconds::ZERO, |(_, until)| until.since(now)),
            "mode": if self.valid_plan(now).is_some() { "adaptive" } else { "time_of_day" },
        })
    }

    fn valid_plan(&self, now: Timestamp) -> Option<&PublishedPlan> {
        self.plan.as_ref().filter(|plan| now <= plan.valid_until && plan.source != PlanSource::Shadow)
    }

    fn wanted(&self, stage: usize, now: Timestamp) -> usize {
        let Some(plan) = self.valid_plan(now) else { return self.wanted_by_time_of_day(now) };
        let number = |entry: &shared::plan::PlanStage| self.intersection.stages().iter().position(|s| s.id == entry.stage);
        let due = plan.stages.iter().rev().filter_map(|entry| Some((number(entry)?, entry.start))).find(|&(number, start)| {
            let lead = if number == stage { Deciseconds::ZERO } else { self.intersection.clearance(stage) };
            start - lead <= now
        });
        due.map_or(stage, |(number, _)| number)
    }

    fn wanted_by_time_of_day(&self, now: Timestamp) -> usize {
        let plan = &self.intersection.time_of_day().stages;
        let (entry, into) = self.intersection.time_of_day_at(now);
        let ended = plan.get(entry).is_none_or(|&(_, green)| into >= green);
        plan.get((entry + usize::from(ended)) % plan.len().max(1)).map_or(0, |entry| entry.0)
    }

    fn green_min(&self, stage: usize) -> Deciseconds {
        self.intersection.stages().get(stage).map_or(Deciseconds::ZERO, |s| s.green_min)
    }

    /// Whether everybody can still be green in time if the signal now goes on with `next`: by visiting the stages in the
    /// order of their longest red, each for its minimum.
    fn keeps_red_max(&self, stage: usize, next: usize, now: Timestamp) -> bool {
        let mut red = self.red_since.clone();
        let (mut current, mut leave, mut longest) = (stage, now + Deciseconds::from_secs(1), Deciseconds::ZERO);
        if next != stage {
            turn_red(&mut red, self.intersection.movements_of(stage).minus(self.intersection.movements_of(next)).iter(), now);
            let start = now + self.intersection.clearance(stage);
            longest = serve(&mut red, &self.intersection, next, start);
            (current, leave) = (next, start + self.green_min(next));
        }
        turn_red(&mut red, self.intersection.movements_of(current).iter(), leave);
        // Each visit serves a movement that is red, and none is red again.
        while let Some(urgent) = self.most_urgent(&red, current) {
            let start = leave + self.intersection.clearance(current);
            longest = longest.max(serve(&mut red, &self.intersection, urgent, start));
            (current, leave) = (urgent, start + self.green_min(urgent));
        }
        longest <= self.intersection.red_max()
    }

    fn most_urgent(&self, red: &[Option<Timestamp>], current: usize) -> Option<usize> {
        let waiting = red.iter().enumerate().filter_map(|(movement, since)| Some(((*since)?, self.intersection.home_of(movement)?)));
        waiting.filter(|&(_, home)| home != current).min_by_key(|&(since, _)| since).map(|(_, home)| home)
    }
}

fn turn_red(red: &mut [Option<Timestamp>], movements: impl Iterator<Item = usize>, at: Timestamp) {
    for movement in movements {
        if let Some(since) = red.get_mut(movement) {
            since.get_or_insert(at);
        }
    }
}

/// Turns the movements of a stage green; tells how long they were red at most.
fn serve(red: &mut [Option<Timestamp>], intersection: &Intersection, stage: usize, at: Timestamp) -> Deciseconds {
    let served = intersection.movements_of(stage).iter().filter_map(|movement| red.get_mut(movement)?.take());
    served.map(|since| at.since(since)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::plan::{PlanStage, Reason};

    use super::super::city::City;
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_795_417_200_000);

    fn second(n: u32) -> Timestamp {
        START + Deciseconds::from_secs(n)
    }

    fn junction(number: usize) -> Intersection {
        Intersection::try_from(City::default().document(number)).unwrap()
    }

    /// A plan that asks for stages at any time and in any order.
    fn plan(cabinet: &Cabinet, as_of: Timestamp, ttl_s: u32, stages: &[(usize, i64)]) -> PublishedPlan {
        let entry = |&(stage, start): &(usize, i64)| PlanStage {
            stage: cabinet.intersection.stages()[stage].id.clone(),
            start: as_of.plus_millis(start * 100),
            green_s: Deciseconds::from_secs(5),
        };
        PublishedPlan {
            intersection_id: cabinet.intersection.id().clone(),
            revision: 1,
            as_of,
            valid_until: as_of + Deciseconds::from_secs(ttl_s),
            source: PlanSource::Adaptive,
            stages: stages.iter().map(entry).collect(),
            reason: Reason { code: "test".into(), text: String::new() },
        }
    }

    /// Checks what drivers see, second by second, against the limits.
    struct Witness(Vec<(Face, u32)>);

    impl Witness {
        fn see(&mut self, cabinet: &Cabinet, now: Timestamp) {
            let faces: Vec<_> = (0..self.0.len()).map(|m| cabinet.face(m, now)).collect();
            for (movement, (shown, lasted)) in self.0.iter_mut().enumerate() {
                let (kind, seen) = (|f| std::mem::discriminant(&f), faces[movement]);
                let goes = |f| matches!(f, Face::Green | Face::Permitted);
                if kind(*shown) == kind(seen) || goes(*shown) && goes(seen) {
                    *lasted += 1;
                } else {
                    match (*shown, seen) {
                        (Face::Green | Face::Permitted, Face::Yellow(_)) => {
                            let of = |s: &&shared::intersection::Stage| s.movements().contains(movement);
                            let shortest = cabinet.intersection.stages().iter().filter(of).map(|s| s.green_min).min().unwrap();
                            assert!(Deciseconds::from_secs(*lasted) >= shortest, "movement {movement} was green for {lasted} s");
                        }
                        (Face::Yellow(_), Face::Red) => assert_eq!(*lasted, 3, "yellow of movement {movement}"),
                        (Face::Red, Face::Green | Face::Permitted) => {}
                        (from, to) => panic!("movement {movement} went from {from:?} to {to:?}"),
                    }
                    *lasted = 1;
                }
                *shown = seen;
                assert!(seen != Face::Red || *lasted <= 150, "movement {movement} was red for {lasted} s");
            }
            for &(a, b) in cabinet.intersection.conflicts() {
                let ways = [faces[a], faces[b]];
                assert!(!ways.iter().all(|&f| f == Face::Green), "{a} and {b} are green");
                let fresh = |i: usize| ways[i] == Face::Green && self.0[[a, b][i]].1 == 1;
                let clearing = |i: usize| matches!(ways[i], Face::Yellow(_));
                assert!(!(fresh(0) && clearing(1) || fresh(1) && clearing(0)), "{a} and {b} have no red clearance");
            }
        }
    }

    proptest! {
        #[test]
        fn no_plan_makes_a_cabinet_break_its_limits(
            plans in prop::collection::vec((1_u32..200, 0_u32..250, prop::collection::vec((0_usize..4, -300_i64..300), 0..4)), 1..20),
        ) {
            let mut cabinet = Cabinet::new(junction(0), START);
            let mut witness = Witness((0..16).map(|m| (cabinet.face(m, START), 0)).collect());
            let mut now = 0;
            for (lasts, ttl, stages) in plans {
                cabinet.take(plan(&cabinet, second(now), ttl, &stages));
                for _ in 0..lasts {
                    cabinet.advance(second(now));
                    cabinet.follow(second(now));
                    witness.see(&cabinet, second(now));
                    now += 1;
                }
            }
        }
    }

    #[test]
    fn a_cabinet_without_a_valid_plan_runs_in_step_with_its_time_of_day_plan() {
        let mut cabinet = Cabinet::new(junction(1), START);
        cabinet.take(plan(&cabinet, START, 60, &[(2, 0)]));
        for n in 0..600 {
            cabinet.advance(second(n));
            cabinet.follow(second(n));
            let (entry, into) = cabinet.intersection.time_of_day_at(second(n));
            let (stage, green) = cabinet.intersection.time_of_day().stages[entry];
            if n > 300 && into < green {
                assert!(matches!(cabinet.phase, Phase::Green { stage: s, since } if s == stage && since == second(n) - into), "{n} s");
            }
        }
        assert_eq!((cabinet.refused, cabinet.forced), (14, 0));
    }
}
