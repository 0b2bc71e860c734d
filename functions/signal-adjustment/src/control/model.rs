//! The junction as the planner sees it: a queue per lane, known arrivals, and what each stage serves, second by second.
//!
//! Vehicles wait at the stop line of their lane. In a second, `left = max(queue + arrivals - capacity, 0)` of them stay; each
//! costs a vehicle-second, and those that arrived and have to stop cost the stop as well. The fluid queue of a point-queue
//! model, in the form that rolling-horizon control (OPAC, COP, SURTRAC) has used since Gartner (1983).

use shared::intersection::{Intersection, MovementSet, Planner, Stage, Turn};
use shared::units::{Deciseconds, Timestamp};
use wide::f32x8;

use crate::demand::LaneDemand;
use crate::estimate::{Estimate, served};
use crate::signal::{Phase, SignalState};

/// Lanes that are computed together: by one instruction where AVX2 is built for, as `cargo lambda` does for `x86_64`.
type Lanes = f32x8;
pub(super) const GROUP: usize = 8;

/// A value of each lane, of a junction with so many groups of them.
type All<const GROUPS: usize> = [Lanes; GROUPS];

/// What a full exit takes: enough that nobody is forgotten.
const EXIT_OPEN_MIN: f64 = 0.02;

/// Fewer vehicles than this are nobody.
const NOBODY: f32 = 0.5;

/// Everything that a rollout needs. How many groups of lanes there are is known when this is compiled: their loops are unrolled.
pub(super) struct Model<const GROUPS: usize> {
    stages: usize,
    /// Seconds that are looked ahead.
    horizon: usize,
    /// Vehicles at the stop lines now.
    queue: All<GROUPS>,
    /// Second by second.
    arrivals: Vec<All<GROUPS>>,
    /// What each stage serves in a second.
    serve: Vec<All<GROUPS>>,
    /// By stage, 1 for each lane that it serves, else 0.
    served: Vec<All<GROUPS>>,
    /// The most that leaves all lanes of each stage together in a second of its green.
    flow: Vec<f32>,
    /// Vehicles that arrive within `clear_ahead_s` from a second on, second by second.
    soon: Vec<All<GROUPS>>,
    /// Lanes of which no stage serves two: whatever is done, one at a time of each such set is served.
    exclusive: Vec<Exclusive>,
    /// 0 for each lane that is held up in the running green, else 1.
    moving: All<GROUPS>,
    /// What keeps its green from one stage to another, for each pair.
    through: Vec<All<GROUPS>>,
    /// Seconds between two stages.
    clearance: Vec<usize>,
    planner: Planner,
    startup: f32,
    /// Seconds of the yellow of each stage in which vehicles still pass.
    yellow: Vec<f32>,
    stop_cost: f32,
}

/// A rollout under way.
#[derive(Clone, Copy)]
pub(super) struct Roll<const GROUPS: usize> {
    /// Vehicles at the stop lines.
    queue: All<GROUPS>,
    /// Seconds from now.
    pub(super) second: usize,
    /// What waits and stops have cost.
    waited: Lanes,
    /// What everything else has cost.
    pub(super) extra: f32,
}

impl<const GROUPS: usize> Roll<GROUPS> {
    /// What it has cost so far.
    pub(super) fn cost(&self) -> f32 {
        self.extra + sum(self.waited)
    }
}

/// Lanes of which each stage serves one at most.
struct Exclusive {
    lanes: Vec<usize>,
    /// The most that any stage serves of any of them in a second.
    most: f32,
}

#[expect(clippy::cast_possible_truncation, reason = "costs need no more than single precision")]
pub(super) const fn single(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds, none if below 0")]
pub(super) const fn whole_seconds(seconds: f64) -> usize {
    seconds as usize
}

/// The larger of two numbers. Unlike `f32::max` it need not look for what is no number.
const fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Whole seconds, rounded up: a change that is modelled too late costs less than one that is not there yet.
pub(super) const fn seconds_up(time: Deciseconds) -> usize {
    time.tenths().div_ceil(10) as usize
}

impl<const GROUPS: usize> Model<GROUPS> {
    pub(super) fn of(intersection: &Intersection, estimate: &Estimate, state: &SignalState) -> Self {
        let planner = intersection.control().planner;
        let (lanes, stages) = (intersection.lanes().len(), intersection.stages().len());
        let horizon = whole_seconds(planner.horizon_s);
        let margin =
            if intersection.stages().iter().any(|stage| turns_block(intersection, stage)) { planner.give_way_margin_s } else { 0.0 };
        let yellow_used =
            intersection.stages().iter().map(|stage| single((planner.yellow_used_s + margin).min(stage.yellow_change.as_secs())));
        let mut model = Self {
            stages,
            horizon,
            queue: [Lanes::ZERO; GROUPS],
            arrivals: vec![[Lanes::ZERO; GROUPS]; horizon],
            serve: vec![[Lanes::ZERO; GROUPS]; stages],
            served: vec![[Lanes::ZERO; GROUPS]; stages],
            flow: Vec::new(),
            soon: vec![[Lanes::ZERO; GROUPS]; horizon],
            exclusive: Vec::new(),
            moving: [Lanes::ONE; GROUPS],
            through: vec![[Lanes::ZERO; GROUPS]; stages * stages],
            clearance: vec![0; stages * stages],
            planner,
            startup: single(planner.startup_loss_s + margin),
            yellow: yellow_used.collect(),
            stop_cost: single(planner.stop_cost_s),
        };
        model.fill_capacity(intersection, estimate, state.at);
        let demand = estimate.demand(intersection, state.at);
        model.fill_demand(&demand);
        model.fill_soon();
        // They keep no stage from being clear: it is not known when they come.
        model.add_unseen(&demand);
        for (served, serve) in model.served.iter_mut().zip(&model.serve) {
            *served = serve.map(|flows| flows.simd_gt(Lanes::ZERO).select(Lanes::ONE, Lanes::ZERO));
        }
        model.flow = (0..stages).map(|stage| model.most_of(stage)).collect();
        model.exclusive = model.exclusive_sets(lanes);
        model.stop_held_up(intersection, estimate, state);
        model
    }

    /// Lanes that stand in the running green let nobody pass while it lasts. Those whose exit is full are none of them: the end of
    /// the green does not let them out.
    fn stop_held_up(&mut self, intersection: &Intersection, estimate: &Estimate, state: &SignalState) {
        let Phase::Green { stage, since } = state.phase else { return };
        for (lane, detector) in estimate.by_lane(intersection).into_iter().enumerate() {
            if detector.is_some_and(|d| d.is_trusted(intersection, state.at) && d.is_held_up(since))
                && estimate.has_open_exits(intersection, lane, stage, state.at)
                && let Some(slot) = at_mut(&mut self.moving, lane)
            {
                *slot = 0.0;
            }
        }
    }

    fn fill_capacity(&mut self, intersection: &Intersection, estimate: &Estimate, now: Timestamp) {
        let flow = self.planner.saturation_flow_vph / 3600.0;
        let open = open_exits(intersection, estimate, now);
        let mut discharge = served(intersection).zip(estimate.discharge()).peekable();
        for lane in 0..intersection.lanes().len() {
            let uses = uses_of(intersection, lane, self.planner.turn_weight, &open);
            let ways: MovementSet = uses.iter().map(|way| way.movement).collect();
            for (number, stage) in intersection.stages().iter().enumerate() {
                let share = share_of(&uses, stage.protected, stage.permitted, &self.planner);
                let learnt = discharge.next_if(|((of, at), _)| (*of, *at) == (lane, number)).map_or(1.0, |(_, d)| d.factor());
                if let Some(slot) = self.serve.get_mut(number).and_then(|all| at_mut(all, lane)) {
                    *slot = single(share * flow * learnt);
                }
            }
            for (from, a) in intersection.stages().iter().enumerate() {
                for (to, b) in intersection.stages().iter().enumerate() {
                    let both = |x: MovementSet, y: MovementSet| x.minus(x.minus(y));
                    let kept = both(ways, both(a.movements(), b.movements()));
                    if kept.is_empty() {
                        continue;
                    }
                    let share = share_of(&uses, both(kept, b.protected), both(kept, b.permitted), &self.planner);
                    if let Some(slot) = self.through.get_mut(from * self.stages + to).and_then(|all| at_mut(all, lane)) {
                        *slot = single(share * flow);
                    }
                }
            }
        }
        for from in 0..self.stages {
            for to in 0..self.stages {
                if let Some(slot) = self.clearance.get_mut(from * self.stages + to) {
                    *slot = seconds_up(intersection.clearance_between(from, to));
                }
            }
        }
    }

    /// Puts each lane into the first set that has no lane of the same stage yet.
    fn exclusive_sets(&self, lanes: usize) -> Vec<Exclusive> {
        let flows = |lane: usize| (0..self.stages).map(move |stage| lane_of(self.serve(stage), lane));
        let mut sets: Vec<Exclusive> = Vec::new();
        for lane in 0..lanes {
            let kept = self.through.iter().map(|flows| lane_of(flows, lane));
            let most = flows(lane).chain(kept).fold(0.0, larger);
            let shares_stage = |other: &usize| flows(lane).zip(flows(*other)).any(|(a, b)| a > 0.0 && b > 0.0);
            if let Some(set) = sets.iter_mut().find(|set| !set.lanes.iter().any(shares_stage)) {
                set.lanes.push(lane);
                set.most = larger(set.most, most);
            } else {
                sets.push(Exclusive { lanes: vec![lane], most });
            }
        }
        sets
    }

    /// The most that leaves all lanes of a stage together in a second of its green.
    fn most_of(&self, stage: usize) -> f32 {
        let mut most = *self.serve(stage);
        for from in 0..self.stages {
            for (most, kept) in most.iter_mut().zip(self.through(from, stage)) {
                *most = most.fast_max(*kept);
            }
        }
        most.into_iter().map(sum).sum()
    }

    fn fill_demand(&mut self, demand: &[LaneDemand]) {
        for (lane, here) in demand.iter().enumerate() {
            if let Some(slot) = at_mut(&mut self.queue, lane) {
                *slot = single(here.queue);
            }
            for (second, vehicles) in here.arrivals().take(self.horizon).enumerate() {
                if let Some(slot) = self.arrivals.get_mut(second).and_then(|all| at_mut(all, lane)) {
                    *slot = single(vehicles);
                }
            }
        }
    }

    fn fill_soon(&mut self) {
        let clear_ahead = whole_seconds(self.planner.clear_ahead_s);
        for (second, soon) in self.soon.iter_mut().enumerate() {
            for arrivals in self.arrivals.iter().skip(second).take(clear_ahead) {
                for (soon, more) in soon.iter_mut().zip(arrivals) {
                    *soon += *more;
                }
            }
        }
    }

    fn add_unseen(&mut self, demand: &[LaneDemand]) {
        for (lane, here) in demand.iter().enumerate().filter(|(_, here)| here.unseen > 0.0) {
            for second in 0..self.horizon {
                if let Some(slot) = self.arrivals.get_mut(second).and_then(|all| at_mut(all, lane)) {
                    *slot += single(here.unseen);
                }
            }
        }
    }

    /// Seconds that are looked ahead.
    pub(super) const fn horizon(&self) -> usize {
        self.horizon
    }

    /// A rollout that begins now.
    pub(super) fn begin(&self) -> Roll<GROUPS> {
        Roll { queue: self.queue, second: 0, waited: Lanes::ZERO, extra: 0.0 }
    }

    /// What a change of stage costs besides its clearance.
    pub(super) const fn change_cost(&self) -> f32 {
        single(self.planner.change_cost_s)
    }

    /// Seconds from the green of one stage to the green of another.
    pub(super) fn clearance(&self, from: usize, to: usize) -> usize {
        self.clearance.get(from * self.stages + to).copied().unwrap_or_default()
    }

    fn serve(&self, stage: usize) -> &All<GROUPS> {
        self.serve.get(stage).unwrap_or(&[Lanes::ZERO; GROUPS])
    }

    fn through(&self, from: usize, to: usize) -> &All<GROUPS> {
        self.through.get(from * self.stages + to).unwrap_or(&[Lanes::ZERO; GROUPS])
    }

    /// A second of the green of a stage, `age` seconds after it began; `from` is the stage before it.
    pub(super) fn green(&self, roll: &mut Roll<GROUPS>, stage: usize, from: usize, age: usize) {
        let started = self.started(age);
        if started >= 1.0 {
            return self.pass(roll, self.serve(stage).iter().copied());
        }
        self.pass(roll, self.starting(stage, from, started));
    }

    /// The same of the stage reached, in which lanes may be held up.
    pub(super) fn green_on(&self, roll: &mut Roll<GROUPS>, stage: usize, from: usize, age: usize) {
        let starting = self.starting(stage, from, self.started(age));
        self.pass(roll, starting.zip(&self.moving).map(|(flow, moving)| flow * *moving));
    }

    /// Share of its flow that passes in this second of a green.
    const fn started(&self, age: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred seconds")]
        let seconds = age as f32 + 1.0 - self.startup;
        seconds.clamp(0.0, 1.0)
    }

    /// What passes when this share of its flow does, but for what was green before and goes on.
    fn starting(&self, stage: usize, from: usize, started: f32) -> impl Iterator<Item = Lanes> {
        let kept = self.through(from, stage).iter().zip(self.serve(stage));
        kept.map(move |(kept, full)| *kept + (*full - *kept) * started)
    }

    /// A second of the clearance between two stages, `age` seconds after it began.
    pub(super) fn clear(&self, roll: &mut Roll<GROUPS>, from: usize, to: usize, age: usize) {
        #[expect(clippy::cast_precision_loss, reason = "at most a few seconds")]
        let passing = (self.yellow.get(from).copied().unwrap_or_default() - age as f32).clamp(0.0, 1.0);
        let kept = self.through(from, to).iter().zip(self.serve(from));
        self.pass(roll, kept.map(|(kept, full)| kept.fast_max(*full * passing)));
    }

    fn pass(&self, roll: &mut Roll<GROUPS>, capacity: impl Iterator<Item = Lanes>) {
        let Some(arrivals) = self.arrivals.get(roll.second) else { return };
        roll.second += 1;
        for ((queue, arrivals), capacity) in roll.queue.iter_mut().zip(arrivals).zip(capacity) {
            *queue = (*queue + *arrivals - capacity).fast_max(Lanes::ZERO);
            roll.waited += *queue + queue.fast_min(*arrivals) * self.stop_cost;
        }
    }

    /// For so many seconds of its green, which it has begun, somebody whom the stage serves waits or arrives soon; 0 if nobody does
    /// now.
    pub(super) fn busy_for(&self, roll: &Roll<GROUPS>, stage: usize) -> usize {
        let (Some(served), Some(soon)) = (self.served.get(stage), self.soon.get(roll.second)) else { return 0 };
        let mut left = Lanes::ZERO;
        for ((queue, soon), served) in roll.queue.iter().zip(soon).zip(served) {
            left += (*queue + *soon) * *served;
        }
        let left = sum(left);
        if left < NOBODY {
            return 0;
        }
        let flow = self.flow.get(stage).copied().unwrap_or(f32::INFINITY);
        // A little less, so that no rounding makes it a second too many.
        1 + whole_seconds(f64::from((left - NOBODY - 1e-4) / flow - 0.01))
    }

    /// The stage that would serve most vehicles, if one has any to serve; else the one given.
    pub(super) fn fullest(&self, roll: &Roll<GROUPS>, stage: usize) -> usize {
        let [(fullest, vehicles)] = self.ranked(roll, stage);
        if vehicles > NOBODY { fullest } else { stage }
    }

    /// The other stages that would serve most vehicles within some seconds, with how many, the fullest first; where there are no more
    /// of them, the one given.
    pub(super) fn ranked<const N: usize>(&self, roll: &Roll<GROUPS>, stage: usize) -> [(usize, f32); N] {
        const LOOK_S: f32 = 10.0;
        let mut ranked = [(stage, f32::NEG_INFINITY); N];
        for other in (0..self.stages).filter(|&other| other != stage) {
            let mut served = Lanes::ZERO;
            for (queue, serve) in roll.queue.iter().zip(self.serve(other)) {
                served += queue.fast_min(*serve * LOOK_S);
            }
            let mut entry = (other, sum(served));
            for place in &mut ranked {
                if entry.1 > place.1 {
                    std::mem::swap(place, &mut entry);
                }
            }
        }
        ranked
    }

    /// What a rollout has cost and those who wait in it will cost at least, whatever is served from here on.
    pub(super) fn at_least(&self, roll: &Roll<GROUPS>) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most 90 s")]
        let left = self.horizon.saturating_sub(roll.second) as f32;
        let queue = roll.queue.map(Lanes::to_array);
        let queue = queue.as_flattened();
        let cost = |set: &Exclusive| {
            let waiting: f32 = set.lanes.iter().filter_map(|&lane| queue.get(lane)).sum();
            let unserved = waiting - set.most * left;
            if unserved > 0.0 {
                left * waiting - set.most * left * (left + 1.0) / 2.0 + single(self.planner.unserved_cost_s) * unserved
            } else {
                // Served at this rate, q vehicles wait for q (q - rate) / (2 rate) vehicle-seconds.
                larger(waiting * (waiting - set.most) / (2.0 * larger(set.most, f32::EPSILON)), 0.0)
            }
        };
        roll.cost() + self.exclusive.iter().map(cost).sum::<f32>()
    }

    /// What a rollout has cost at the horizon, with what still waits there.
    pub(super) fn total(&self, roll: &Roll<GROUPS>) -> f32 {
        roll.cost() + single(self.planner.unserved_cost_s) * roll.queue.iter().copied().map(sum).sum::<f32>()
    }
}

/// Pair by pair: a chain of additions would wait for each. Not by `reduce_add`, whose order depends on the processor.
fn sum(lanes: Lanes) -> f32 {
    let [one, two, three, four, five, six, seven, eight] = lanes.to_array();
    ((one + five) + (three + seven)) + ((two + six) + (four + eight))
}

fn at_mut(lanes: &mut [Lanes], lane: usize) -> Option<&mut f32> {
    lanes.get_mut(lane / GROUP)?.as_mut_array().get_mut(lane % GROUP)
}

/// The value of one lane.
fn lane_of(lanes: &[Lanes], lane: usize) -> f32 {
    lanes.get(lane / GROUP).and_then(|group| group.as_array().get(lane % GROUP)).copied().unwrap_or_default()
}

/// Whether turns that give way share more than one lane with through vehicles: if they come from both sides they block each other,
/// and who is behind them.
fn turns_block(intersection: &Intersection, stage: &Stage) -> bool {
    let green = |lane: usize, among: MovementSet, through: bool| {
        let movements = intersection.movements().iter().enumerate();
        movements.filter(|(_, m)| m.from_lane == Some(lane) && (m.turn == Turn::Through) == through).any(|(m, _)| among.contains(m))
    };
    let shared = |lane: &usize| green(*lane, stage.movements(), true) && green(*lane, stage.permitted, false);
    (0..intersection.lanes().len()).filter(shared).count() > 1
}

/// One way out of a lane.
struct Use {
    movement: usize,
    /// Share of the lane's vehicles.
    share: f64,
    /// Share of its capacity that its exit takes.
    open: f64,
}

fn uses_of(intersection: &Intersection, lane: usize, turn_weight: f64, open: &[f64]) -> Vec<Use> {
    let of_lane = intersection.movements().iter().enumerate().filter(|(_, m)| m.from_lane == Some(lane));
    let mut uses: Vec<Use> = of_lane
        .map(|(movement, m)| Use {
            movement,
            share: if m.turn == Turn::Through { 1.0 } else { turn_weight },
            open: m.to_exit.and_then(|exit| open.get(exit)).copied().unwrap_or(1.0),
        })
        .collect();
    let all: f64 = uses.iter().map(|u| u.share).sum();
    for way in &mut uses {
        way.share /= all;
    }
    uses
}

/// Vehicles a second that a lane discharges in a stage, where nothing is learnt; `open` tells which share of it each exit takes, all
/// of it if it does not say.
pub(crate) fn flow_into(intersection: &Intersection, lane: usize, stage: usize, open: &[f64]) -> f64 {
    let planner = &intersection.control().planner;
    let uses = uses_of(intersection, lane, planner.turn_weight, open);
    let share = intersection.stages().get(stage).map_or(0.0, |s| share_of(&uses, s.protected, s.permitted, planner));
    share * planner.saturation_flow_vph / 3600.0
}

/// Share of a lane's saturation flow that passes while these movements are green.
fn share_of(uses: &[Use], protected: MovementSet, permitted: MovementSet, planner: &Planner) -> f64 {
    let passing = uses.iter().map(|way| match (protected.contains(way.movement), permitted.contains(way.movement)) {
        (true, _) => way.share * way.open,
        (false, true) => way.share * way.open * planner.permitted_share,
        (false, false) => 0.0,
    });
    passing.sum()
}

/// Share of its capacity that each exit takes. An exit that standing vehicles fill more and more takes less and less: who enters
/// it all the same blocks the junction.
pub(crate) fn open_exits(intersection: &Intersection, estimate: &Estimate, now: Timestamp) -> Vec<f64> {
    let open = |exit| {
        let full = estimate.standing_share(intersection, exit, now).unwrap_or(0.0);
        ((1.0 - full) / (1.0 - intersection.control().planner.exit_free_share)).clamp(EXIT_OPEN_MIN, 1.0)
    };
    (0..intersection.exits().len()).map(open).collect()
}
