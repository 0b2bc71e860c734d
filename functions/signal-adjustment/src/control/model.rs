//! The junction as the planner sees it: a queue per lane, known arrivals, and what each stage serves, second by second.
//!
//! Vehicles wait at the stop line of their lane. In a second, `left = max(queue + arrivals - capacity, 0)` of them stay; each
//! costs a vehicle-second, and those that arrived and have to stop cost the stop as well. The fluid queue of a point-queue
//! model, in the form that rolling-horizon control (OPAC, COP, SURTRAC) has used since Gartner (1983).

use shared::intersection::{Intersection, MovementSet, Planner, Turn};
use shared::units::{Deciseconds, Timestamp};

use crate::estimate::{Arrivals, DetectorState, Estimate, longest_silence, served};
use crate::signal::SignalState;

/// Lanes that are computed together.
const GROUP: usize = 8;
pub(super) type Lanes = [f32; GROUP];

/// An exit takes all that comes until this share of it is full of standing vehicles: it discharges as they arrive.
pub(crate) const EXIT_FREE_SHARE: f64 = 0.4;
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
    /// The most that any stage serves of each lane in a second, `groups`.
    most: Vec<Lanes>,
    /// What keeps its green from one stage to another, `groups` for each pair.
    through: Vec<Lanes>,
    /// Seconds between two stages.
    clearance: Vec<usize>,
    planner: Planner,
    startup: f32,
    yellow: f32,
    stop_cost: f32,
}

#[expect(clippy::cast_possible_truncation, reason = "costs need no more than single precision")]
const fn single(value: f64) -> f32 {
    value as f32
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
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a parameter of at most 90")]
        let horizon = planner.horizon_s as usize;
        let mut model = Self {
            groups,
            stages,
            horizon,
            queue: vec![[0.0; GROUP]; groups],
            arrivals: vec![[0.0; GROUP]; groups * horizon],
            serve: vec![[0.0; GROUP]; groups * stages],
            served: vec![[0.0; GROUP]; groups * stages],
            most: vec![[0.0; GROUP]; groups],
            through: vec![[0.0; GROUP]; groups * stages * stages],
            clearance: vec![0; stages * stages],
            planner,
            startup: single(planner.startup_loss_s),
            yellow: single(planner.yellow_used_s),
            stop_cost: single(planner.stop_cost_s),
        };
        model.fill_capacity(intersection, estimate, state.at);
        model.fill_demand(intersection, estimate, state);
        for (served, serve) in model.served.iter_mut().zip(&model.serve) {
            *served = serve.map(|flow| if flow > 0.0 { 1.0 } else { 0.0 });
        }
        for (number, serve) in model.serve.iter().enumerate() {
            if let Some(most) = model.most.get_mut(number % groups) {
                *most = zip(*most, *serve, f32::max);
            }
        }
        model
    }

    fn fill_capacity(&mut self, intersection: &Intersection, estimate: &Estimate, now: Timestamp) {
        let flow = self.planner.saturation_flow_vph / 3600.0;
        let open = open_exits(intersection, estimate, now);
        let mut discharge = served(intersection).zip(estimate.discharge()).peekable();
        for lane in 0..intersection.lanes().len() {
            let uses = uses_of(intersection, lane, self.planner.turn_weight, &open);
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
                    let kept = both(a.movements(), b.movements());
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

    fn fill_demand(&mut self, intersection: &Intersection, estimate: &Estimate, state: &SignalState) {
        let longest = longest_silence(intersection);
        for (lane, detector) in estimate.by_lane(intersection).into_iter().enumerate() {
            let Some(detector) = detector.filter(|d| d.distrust(state.at, longest).is_none()) else { continue };
            let here = LaneDemand::of(&detector, state.at, red_for(intersection, state, lane));
            if let Some(slot) = at_mut(&mut self.queue, 0, lane) {
                *slot = single(here.queue);
            }
            for (second, vehicles) in here.arrivals(self.horizon).enumerate() {
                if let Some(slot) = at_mut(&mut self.arrivals, second * self.groups, lane) {
                    *slot = single(vehicles);
                }
            }
        }
    }

    /// Seconds that are looked ahead.
    pub(super) const fn horizon(&self) -> usize {
        self.horizon
    }

    /// Vehicles at the stop lines now.
    pub(super) fn queue(&self) -> &[Lanes] {
        &self.queue
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

    /// A second of the green of a stage, `age` seconds after it began; `from` is the stage before it. Answers the cost.
    pub(super) fn green(&self, queue: &mut [Lanes], second: usize, stage: usize, from: usize, age: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred seconds")]
        let moving = (age as f32 + 1.0 - self.startup).clamp(0.0, 1.0);
        if moving >= 1.0 {
            return self.pass(queue, second, self.serve(stage).iter().copied());
        }
        let kept = self.through(from, stage).iter().zip(self.serve(stage));
        self.pass(queue, second, kept.map(|(kept, full)| zip(*kept, *full, |k, f| k + (f - k) * moving)))
    }

    /// A second of the clearance between two stages, `age` seconds after it began. Answers the cost.
    pub(super) fn clear(&self, queue: &mut [Lanes], second: usize, from: usize, to: usize, age: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most a few seconds")]
        let passing = (self.yellow - age as f32).clamp(0.0, 1.0);
        let kept = self.through(from, to).iter().zip(self.serve(from));
        self.pass(queue, second, kept.map(|(kept, full)| zip(*kept, *full, |k, f| k.max(f * passing))))
    }

    fn pass(&self, queue: &mut [Lanes], second: usize, capacity: impl Iterator<Item = Lanes>) -> f32 {
        let mut cost = [0.0; GROUP];
        for ((queue, arrivals), capacity) in queue.iter_mut().zip(self.arrivals(second)).zip(capacity) {
            for (((queue, arrivals), capacity), cost) in queue.iter_mut().zip(arrivals).zip(capacity).zip(&mut cost) {
                let left = (*queue + arrivals - capacity).max(0.0);
                *cost += left + self.stop_cost * left.min(*arrivals);
                *queue = left;
            }
        }
        cost.iter().sum()
    }

    /// Whether nobody whom the stage serves waits or arrives within four seconds: as long as a change takes.
    pub(super) fn is_clear(&self, queue: &[Lanes], second: usize, stage: usize) -> bool {
        const AHEAD_S: usize = 4;
        let served = self.served.get(stage * self.groups..(stage + 1) * self.groups).unwrap_or_default();
        let mut left = [0.0; GROUP];
        let mut add = |lanes: &[Lanes]| {
            for (lanes, served) in lanes.iter().zip(served) {
                for ((left, vehicles), served) in left.iter_mut().zip(lanes).zip(served) {
                    *left += vehicles * served;
                }
            }
        };
        add(queue);
        (second..second + AHEAD_S).for_each(|second| add(self.arrivals(second)));
        left.iter().sum::<f32>() < NOBODY
    }

    /// The stage that would serve most vehicles within some seconds, if one has any to serve; else the one given.
    pub(super) fn fullest(&self, queue: &[Lanes], stage: usize) -> usize {
        const LOOK_S: f32 = 10.0;
        let (mut fullest, mut most) = (stage, NOBODY);
        for other in (0..self.stages).filter(|&other| other != stage) {
            let mut sum = [0.0; GROUP];
            for (queue, serve) in queue.iter().zip(self.serve(other)) {
                for ((sum, queue), serve) in sum.iter_mut().zip(queue).zip(serve) {
                    *sum += queue.min(serve * LOOK_S);
                }
            }
            let sum = sum.iter().sum();
            if sum > most {
                (fullest, most) = (other, sum);
            }
        }
        fullest
    }

    /// What those who wait now will cost at least, whatever is served from this second on: as if every lane were green.
    pub(super) fn at_least(&self, queue: &[Lanes], second: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most 90 s")]
        let left = self.horizon.saturating_sub(second) as f32;
        let mut cost = [0.0; GROUP];
        for (queue, most) in queue.iter().zip(&self.most) {
            for ((cost, queue), most) in cost.iter_mut().zip(queue).zip(most) {
                // Served at this rate, q vehicles wait for q (q - rate) / (2 rate) vehicle-seconds.
                let served = queue.min(most * left);
                *cost += (served * (served - most) / (2.0 * most.max(f32::EPSILON))).max(0.0);
            }
        }
        cost.iter().sum()
    }

    /// Cost of what still waits at the horizon.
    pub(super) fn left_over(&self, queue: &[Lanes]) -> f32 {
        single(self.planner.unserved_cost_s) * queue.iter().flatten().sum::<f32>()
    }
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

/// How long no movement of a lane has been green.
fn red_for(intersection: &Intersection, state: &SignalState, lane: usize) -> Deciseconds {
    let of_lane = intersection.movements().iter().zip(&state.red_since).filter(|(m, _)| m.from_lane == Some(lane));
    let red = of_lane.map(|(_, red)| red.unwrap_or(state.at)).max();
    red.map_or(Deciseconds::ZERO, |since| state.at.since(since))
}

/// What is known of one lane, moved to now.
struct LaneDemand {
    queue: f64,
    arrivals: Arrivals,
    /// Seconds since the arrivals were seen.
    age: usize,
    /// Vehicles a second, of a detector that only counts.
    rate: f64,
}

impl LaneDemand {
    fn of(detector: &DetectorState, now: Timestamp, red_for: Deciseconds) -> Self {
        let Some(queue) = detector.waiting() else {
            return Self { queue: detector.rate() * red_for.as_secs(), arrivals: detector.arrivals, age: 0, rate: detector.rate() };
        };
        let last = Timestamp::from_millis(detector.last.unwrap_or(now.as_millis()));
        let age = (now.since(last).tenths() / 10) as usize;
        let arrived: f64 = detector.arrivals.vehicles().take(age).sum();
        Self { queue: queue + arrived, arrivals: detector.arrivals, age, rate: 0.0 }
    }

    fn arrivals(&self, horizon: usize) -> impl Iterator<Item = f64> {
        self.arrivals.vehicles().skip(self.age).chain(std::iter::repeat(0.0)).take(horizon).map(|seen| seen + self.rate)
    }
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

/// Vehicles a second that a lane discharges in a stage, where nothing is learnt and its exits are open.
pub(crate) fn prior_flow(intersection: &Intersection, lane: usize, stage: usize) -> f64 {
    let planner = &intersection.control().planner;
    let uses = uses_of(intersection, lane, planner.turn_weight, &[]);
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
fn open_exits(intersection: &Intersection, estimate: &Estimate, now: Timestamp) -> Vec<f64> {
    let open = |exit| {
        let full = estimate.standing_share(intersection, exit, now).unwrap_or(0.0);
        ((1.0 - full) / (1.0 - EXIT_FREE_SHARE)).clamp(EXIT_OPEN_MIN, 1.0)
    };
    (0..intersection.exits().len()).map(open).collect()
}
