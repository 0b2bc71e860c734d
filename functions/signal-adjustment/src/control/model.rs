//! The junction as the planner sees it: a queue per lane, known arrivals, and what each stage serves, second by second.
//!
//! Vehicles wait at the stop line of their lane. In a second, `left = max(queue + arrivals - capacity, 0)` of them stay; each
//! costs a vehicle-second, and those that arrived and have to stop cost the stop as well. The fluid queue of a point-queue
//! model, in the form that rolling-horizon control (OPAC, COP, SURTRAC) has used since Gartner (1983).

use shared::intersection::{Intersection, MovementSet, Planner, Stage, Turn};
use shared::units::{Deciseconds, Timestamp};

use crate::demand::LaneDemand;
use crate::estimate::{Estimate, served};
use crate::signal::{Phase, SignalState};

/// Lanes that are computed together.
const GROUP: usize = 8;
pub(super) type Lanes = [f32; GROUP];

/// What a full exit takes: enough that nobody is forgotten.
const EXIT_OPEN_MIN: f64 = 0.02;

/// Fewer vehicles than this are nobody.
const NOBODY: f32 = 0.5;

/// Everything that a rollout needs, by number of stage and group of lanes.
pub(super) struct Model {
    groups: usize,
    stages: usize,
    /// Seconds that are looked ahead.
    horizon: usize,
    /// Vehicles at the stop lines now.
    queue: Vec<Lanes>,
    /// Second by second, `groups` each.
    arrivals: Vec<Lanes>,
    /// What a stage serves in a second, `groups` each.
    serve: Vec<Lanes>,
    /// 1 for each lane that a stage serves, else 0, `groups` each.
    served: Vec<Lanes>,
    /// Vehicles that arrive within `clear_ahead_s` from a second on, second by second, `groups` each.
    soon: Vec<Lanes>,
    /// Lanes of which no stage serves two: whatever is done, one at a time of each such set is served.
    exclusive: Vec<Exclusive>,
    /// 0 for each lane that is held up in the running green, else 1, `groups` of them.
    moving: Vec<Lanes>,
    /// What keeps its green from one stage to another, `groups` for each pair.
    through: Vec<Lanes>,
    /// Seconds between two stages.
    clearance: Vec<usize>,
    planner: Planner,
    startup: f32,
    /// Seconds of the yellow of each stage in which vehicles still pass.
    yellow: Vec<f32>,
    stop_cost: f32,
}

/// A rollout under way.
#[derive(Clone)]
pub(super) struct Roll {
    /// Vehicles at the stop lines.
    pub(super) queue: Vec<Lanes>,
    /// Seconds from now.
    pub(super) second: usize,
    /// What waits and stops have cost.
    waited: Lanes,
    /// What everything else has cost.
    pub(super) extra: f32,
}

impl Roll {
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.queue.copy_from_slice(&other.queue);
        (self.second, self.waited, self.extra) = (other.second, other.waited, other.extra);
    }

    /// What it has cost so far.
    pub(super) fn cost(&self) -> f32 {
        self.extra + sum(&self.waited)
    }
}

/// Lanes of which each stage serves one at most.
struct Exclusive {
    lanes: Vec<usize>,
    /// The most that any stage serves of any of them in a second.
    most: f32,
}

#[expect(clippy::cast_possible_truncation, reason = "costs need no more than single precision")]
const fn single(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a parameter of at most 90")]
const fn whole_seconds(parameter: f64) -> usize {
    parameter as usize
}

/// The larger of two numbers. Unlike `f32::max` it need not look for what is no number: one instruction for several lanes.
const fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two numbers.
const fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Whole seconds, rounded up: a change that is modelled too late costs less than one that is not there yet.
pub(super) const fn seconds_up(time: Deciseconds) -> usize {
    time.tenths().div_ceil(10) as usize
}

impl Model {
    pub(super) fn of(intersection: &Intersection, estimate: &Estimate, state: &SignalState) -> Self {
        let planner = intersection.control().planner;
        let lanes = intersection.lanes().len();
        let (groups, stages) = (lanes.div_ceil(GROUP), intersection.stages().len());
        let horizon = whole_seconds(planner.horizon_s);
        let margin =
            if intersection.stages().iter().any(|stage| turns_block(intersection, stage)) { planner.give_way_margin_s } else { 0.0 };
        let yellow_used =
            intersection.stages().iter().map(|stage| single((planner.yellow_used_s + margin).min(stage.yellow_change.as_secs())));
        let mut model = Self {
            groups,
            stages,
            horizon,
            queue: vec![[0.0; GROUP]; groups],
            arrivals: vec![[0.0; GROUP]; groups * horizon],
            serve: vec![[0.0; GROUP]; groups * stages],
            served: vec![[0.0; GROUP]; groups * stages],
            soon: vec![[0.0; GROUP]; groups * horizon],
            exclusive: Vec::new(),
            moving: vec![[1.0; GROUP]; groups],
            through: vec![[0.0; GROUP]; groups * stages * stages],
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
            *served = serve.map(|flow| if flow > 0.0 { 1.0 } else { 0.0 });
        }
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
                && let Some(slot) = at_mut(&mut self.moving, 0, lane)
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
                if let Some(slot) = at_mut(&mut self.serve, number * self.groups, lane) {
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
                    if let Some(slot) = at_mut(&mut self.through, (from * self.stages + to) * self.groups, lane) {
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
            let kept = self.through.chunks(self.groups).map(|flows| lane_of(flows, lane));
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

    fn fill_demand(&mut self, demand: &[LaneDemand]) {
        for (lane, here) in demand.iter().enumerate() {
            if let Some(slot) = at_mut(&mut self.queue, 0, lane) {
                *slot = single(here.queue);
            }
            for (second, vehicles) in here.arrivals().take(self.horizon).enumerate() {
                if let Some(slot) = at_mut(&mut self.arrivals, second * self.groups, lane) {
                    *slot = single(vehicles);
                }
            }
        }
    }

    fn fill_soon(&mut self) {
        let clear_ahead = whole_seconds(self.planner.clear_ahead_s);
        for second in 0..self.horizon {
            for ahead in second..(second + clear_ahead).min(self.horizon) {
                for group in 0..self.groups {
                    let more = self.arrivals(ahead).get(group).copied().unwrap_or_default();
                    if let Some(soon) = self.soon.get_mut(second * self.groups + group) {
                        *soon = zip(*soon, more, |a, b| a + b);
                    }
                }
            }
        }
    }

    fn add_unseen(&mut self, demand: &[LaneDemand]) {
        for (lane, here) in demand.iter().enumerate().filter(|(_, here)| here.unseen > 0.0) {
            for second in 0..self.horizon {
                if let Some(slot) = at_mut(&mut self.arrivals, second * self.groups, lane) {
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
    pub(super) fn begin(&self) -> Roll {
        Roll { queue: self.queue.clone(), second: 0, waited: [0.0; GROUP], extra: 0.0 }
    }

    /// What a change of stage costs besides its clearance.
    pub(super) const fn change_cost(&self) -> f32 {
        single(self.planner.change_cost_s)
    }

    /// What it costs to strand these movements in the junction.
    pub(super) fn stranding(&self, movements: MovementSet) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most 128 movements")]
        let count = movements.len() as f32;
        single(self.planner.stranding_cost_s) * count
    }

    /// Seconds from the green of one stage to the green of another.
    pub(super) fn clearance(&self, from: usize, to: usize) -> usize {
        self.clearance.get(from * self.stages + to).copied().unwrap_or_default()
    }

    fn serve(&self, stage: usize) -> &[Lanes] {
        self.serve.get(stage * self.groups..(stage + 1) * self.groups).unwrap_or_default()
    }

    fn through(&self, from: usize, to: usize) -> &[Lanes] {
        let first = (from * self.stages + to) * self.groups;
        self.through.get(first..first + self.groups).unwrap_or_default()
    }

    fn arrivals(&self, second: usize) -> &[Lanes] {
        self.arrivals.get(second * self.groups..(second + 1) * self.groups).unwrap_or_default()
    }

    /// A second of the green of a stage, `age` seconds after it began; `from` is the stage before it.
    pub(super) fn green(&self, roll: &mut Roll, stage: usize, from: usize, age: usize) {
        let started = self.started(age);
        if started >= 1.0 {
            return self.pass(roll, self.serve(stage).iter().copied());
        }
        self.pass(roll, self.starting(stage, from, started));
    }

    /// The same of the stage reached, in which lanes may be held up.
    pub(super) fn green_on(&self, roll: &mut Roll, stage: usize, from: usize, age: usize) {
        let starting = self.starting(stage, from, self.started(age));
        self.pass(roll, starting.zip(&self.moving).map(|(flow, moving)| zip(flow, *moving, |f, m| f * m)));
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
        kept.map(move |(kept, full)| zip(*kept, *full, |k, f| k + (f - k) * started))
    }

    /// A second of the clearance between two stages, `age` seconds after it began.
    pub(super) fn clear(&self, roll: &mut Roll, from: usize, to: usize, age: usize) {
        #[expect(clippy::cast_precision_loss, reason = "at most a few seconds")]
        let passing = (self.yellow.get(from).copied().unwrap_or_default() - age as f32).clamp(0.0, 1.0);
        let kept = self.through(from, to).iter().zip(self.serve(from));
        self.pass(roll, kept.map(|(kept, full)| zip(*kept, *full, |k, f| larger(k, f * passing))));
    }

    fn pass(&self, roll: &mut Roll, capacity: impl Iterator<Item = Lanes>) {
        for ((queue, arrivals), capacity) in roll.queue.iter_mut().zip(self.arrivals(roll.second)).zip(capacity) {
            let left = zip(zip(*queue, *arrivals, |q, a| q + a), capacity, |q, c| larger(q - c, 0.0));
            let cost = zip(left, *arrivals, |l, a| l + self.stop_cost * smaller(l, a));
            roll.waited = zip(roll.waited, cost, |w, c| w + c);
            *queue = left;
        }
        roll.second += 1;
    }

    /// Whether nobody whom the stage serves waits or arrives soon.
    pub(super) fn is_clear(&self, roll: &Roll, stage: usize) -> bool {
        let served = self.served.get(stage * self.groups..(stage + 1) * self.groups).unwrap_or_default();
        let soon = self.soon.get(roll.second * self.groups..(roll.second + 1) * self.groups).unwrap_or_default();
        let mut left = [0.0; GROUP];
        for ((queue, soon), served) in roll.queue.iter().zip(soon).zip(served) {
            left = zip(left, zip(zip(*queue, *soon, |q, s| q + s), *served, |v, s| v * s), |l, v| l + v);
        }
        sum(&left) < NOBODY
    }

    /// The stage that would serve most vehicles, if one has any to serve; else the one given.
    pub(super) fn fullest(&self, roll: &Roll, stage: usize) -> usize {
        let [(fullest, vehicles)] = self.ranked(roll, stage);
        if vehicles > NOBODY { fullest } else { stage }
    }

    /// The other stages that would serve most vehicles within some seconds, with how many, the fullest first; where there are no more
    /// of them, the one given.
    pub(super) fn ranked<const N: usize>(&self, roll: &Roll, stage: usize) -> [(usize, f32); N] {
        const LOOK_S: f32 = 10.0;
        let mut ranked = [(stage, f32::NEG_INFINITY); N];
        for other in (0..self.stages).filter(|&other| other != stage) {
            let mut served = [0.0; GROUP];
            for (queue, serve) in roll.queue.iter().zip(self.serve(other)) {
                served = zip(served, zip(*queue, *serve, |q, s| smaller(q, s * LOOK_S)), |all, v| all + v);
            }
            let mut entry = (other, sum(&served));
            for place in &mut ranked {
                if entry.1 > place.1 {
                    std::mem::swap(place, &mut entry);
                }
            }
        }
        ranked
    }

    /// What a rollout has cost and those who wait in it will cost at least, whatever is served from here on.
    pub(super) fn at_least(&self, roll: &Roll) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most 90 s")]
        let left = self.horizon.saturating_sub(roll.second) as f32;
        let cost = |set: &Exclusive| {
            let waiting: f32 = set.lanes.iter().map(|&lane| lane_of(&roll.queue, lane)).sum();
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
    pub(super) fn total(&self, roll: &Roll) -> f32 {
        roll.cost() + single(self.planner.unserved_cost_s) * roll.queue.iter().map(sum).sum::<f32>()
    }
}

/// Pair by pair: a chain of additions would wait for each.
const fn sum(lanes: &Lanes) -> f32 {
    let [one, two, three, four, five, six, seven, eight] = lanes;
    ((*one + *five) + (*three + *seven)) + ((*two + *six) + (*four + *eight))
}

fn zip(a: Lanes, b: Lanes, join: impl Fn(f32, f32) -> f32) -> Lanes {
    let mut out = a;
    for (slot, b) in out.iter_mut().zip(b) {
        *slot = join(*slot, b);
    }
    out
}

fn at_mut(lanes: &mut [Lanes], first: usize, lane: usize) -> Option<&mut f32> {
    lanes.get_mut(first + lane / GROUP)?.get_mut(lane % GROUP)
}

/// The value of one lane.
fn lane_of(lanes: &[Lanes], lane: usize) -> f32 {
    lanes.get(lane / GROUP).and_then(|group| group.get(lane % GROUP)).copied().unwrap_or_default()
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
