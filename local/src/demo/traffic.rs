//! Vehicles in the streets: who arrives, who waits, who goes. The same seed gives the same run, second by second.
//!
//! A lane is a queue. A vehicle reaches the stop line after the travel time of its road at the earliest and then waits until
//! the signal, the vehicle ahead, a gap and room on the next lane let it go: a full lane blocks the one behind it.

use std::collections::VecDeque;
use std::f64::consts::TAU;
use std::mem;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use shared::units::{Deciseconds, Timestamp};

use super::cabinet::Face;
use super::city::{City, SPEED_MS, Side, Turn};

/// Headway of a queue that moves: saturation flow 1800 veh/h. Source: HCM 6, base saturation flow of 1900, rounded.
const HEADWAY: Deciseconds = Deciseconds::from_secs(2);
/// Headway of right turns, which give way to people.
const HEADWAY_RIGHT: Deciseconds = Deciseconds::from_secs(3);
/// Until the first vehicle of a standing queue moves. Source: HCM 6, start-up lost time.
const STARTUP_LOSS: Deciseconds = Deciseconds::from_secs(2);
/// Drivers still go in the first part of yellow. Source: HCM 6, extension of effective green.
const YELLOW_USED: Deciseconds = Deciseconds::from_secs(2);
/// A left turn that gives way needs this much time before the next opposing vehicle. Source: HCM 6, critical headway.
const GAP: Deciseconds = Deciseconds::new(45);
/// Space of a standing vehicle, m. Source: HCM 6, queue storage.
const SPACING_M: f64 = 7.5;
/// Bins of a detector's profile: it sees 200 m.
const BIN_M: f64 = 25.0;
const BINS: usize = 8;
/// Mean speed over the stop line of a vehicle that stood, km/h.
const QUEUE_SPEED_KMH: f64 = 25.0;
const LEFT_SHARE: f64 = 0.15;
const RIGHT_SHARE: f64 = 0.15;
/// The flow on a road swings by this share about its mean.
const SWING: f64 = 0.4;
/// Who has turned so often goes straight on.
const TURNS_MAX: usize = 8;

/// A vehicle that enters the city.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    junction: usize,
    from: Side,
    /// What it does at each junction, the last one first.
    turns: Vec<Turn>,
}

/// Who arrives: Poisson on each road into the city, with a morning and an evening peak. About that, each road swings in a
/// rhythm of its own that no plan by the time of day can know.
pub(crate) struct Demand {
    city: City,
    rng: ChaCha8Rng,
    /// Period, s, and phase of the swing of each road, by junction and side.
    swings: Vec<(f64, f64)>,
}

impl Demand {
    pub(crate) fn new(city: City, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut swing = || (1200.0 + 900.0 * rng.random::<f64>(), TAU * rng.random::<f64>());
        let swings = city.junctions().flat_map(|_| Side::ALL).map(|_| swing()).collect();
        Self { city, rng, swings }
    }

    /// Who arrives in this second. To be called for each second in turn.
    pub(crate) fn arrivals(&mut self, now: Timestamp) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for junction in self.city.junctions() {
            for from in Side::ALL {
                if self.city.neighbour(junction, from).is_some() {
                    continue;
                }
                let (period_s, phase) = self.swings.get(junction * 4 + from as usize).copied().unwrap_or((1.0, 0.0));
                let swing = 1.0 + SWING * (second_of_day(now) * TAU / period_s + phase).sin();
                for _ in 0..poisson(&mut self.rng, swing * flow_vehh(from, now) / 3600.0) {
                    let turns = self.route(junction, from);
                    arrivals.push(Arrival { junction, from, turns });
                }
            }
        }
        arrivals
    }

    fn route(&mut self, mut junction: usize, mut from: Side) -> Vec<Turn> {
        let mut turns = Vec::new();
        loop {
            let turn = match self.rng.random::<f64>() {
                _ if turns.len() >= TURNS_MAX => Turn::Through,
                drawn if drawn < LEFT_SHARE => Turn::Left,
                drawn if drawn < LEFT_SHARE + RIGHT_SHARE => Turn::Right,
                _ => Turn::Through,
            };
            turns.push(turn);
            let exit = from.exit(turn);
            let Some(next) = self.city.neighbour(junction, exit) else { break };
            (junction, from) = (next, exit.opposite());
        }
        turns.reverse();
        turns
    }
}

/// Flow into the city from this side, veh/h: eastbound in the morning, westbound in the evening.
fn flow_vehh(from: Side, now: Timestamp) -> f64 {
    let hour = second_of_day(now) / 3600.0;
    let bell = |peak: f64, width: f64| (-((hour - peak) / width).powi(2)).exp();
    let (morning, evening) = (bell(8.0, 1.3), bell(17.0, 1.8));
    match from {
        Side::West => 180.0 + 480.0 * morning + 290.0 * evening,
        Side::East => 180.0 + 290.0 * morning + 480.0 * evening,
        Side::North | Side::South => 110.0 + 220.0 * morning + 220.0 * evening,
    }
}

fn second_of_day(now: Timestamp) -> f64 {
    u32::try_from(now.as_millis().div_euclid(1000).rem_euclid(86_400)).map_or(0.0, f64::from)
}

/// Draws from the Poisson distribution by Knuth's product of uniforms; for small means.
fn poisson(rng: &mut ChaCha8Rng, mean: f64) -> u32 {
    let (limit, mut product, mut count) = ((-mean).exp(), rng.random::<f64>(), 0);
    while product > limit {
        product *= rng.random::<f64>();
        count += 1;
    }
    count
}

struct Vehicle {
    turns: Vec<Turn>,
    /// When it reaches the end of its lane if nothing holds it up.
    at_line: Timestamp,
}

/// What the detector of a lane saw since its last reading.
#[derive(Clone, Copy, Default)]
struct Seen {
    passed: u32,
    speed_sum_kmh: f64,
    occupied_s: u32,
}

#[derive(Default)]
struct Lane {
    vehicles: VecDeque<Vehicle>,
    /// Its vehicles were free to go a second ago.
    open: bool,
    /// Its next vehicle goes no sooner.
    ready: Timestamp,
    seen: Seen,
    /// Vehicles that entered it since the last reading of the exit that leads here.
    entered: u32,
}

/// What came of it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    /// Vehicles that entered the city.
    pub(crate) arrived: u32,
    /// Vehicles that left it.
    pub(crate) left: u32,
    /// Vehicles that are held up now.
    pub(crate) queued: u32,
    /// Time in the city beyond the time at free speed, s, over all vehicles, those inside as well.
    pub(crate) delay_s: f64,
}

impl Totals {
    /// Mean delay per vehicle, s.
    pub(crate) fn delay_mean_s(&self) -> f64 {
        self.delay_s / f64::from(self.arrived.max(1))
    }
}

/// All vehicles in the city.
pub(crate) struct Traffic {
    city: City,
    lanes: Vec<Lane>,
    totals: Totals,
}

impl Traffic {
    pub(crate) fn new(city: City) -> Self {
        let lanes = city.junctions().flat_map(|_| std::iter::repeat_with(Lane::default).take(12));
        Self { city, lanes: lanes.collect(), totals: Totals::default() }
    }

    pub(crate) const fn totals(&self) -> Totals {
        self.totals
    }

    /// Moves everybody through the second that begins now. `face` tells what a movement of a junction sees.
    pub(crate) fn step(&mut self, now: Timestamp, arrivals: &[Arrival], face: impl Fn(usize, usize) -> Face) {
        for arrival in arrivals {
            self.totals.arrived += 1;
            let turn = arrival.turns.last().copied().unwrap_or(Turn::Through);
            self.enter(City::approach(arrival.junction, arrival.from, turn), arrival.turns.clone(), now + travel(arrival.from));
        }
        for junction in self.city.junctions() {
            for side in Side::ALL {
                self.cross(junction, side, Turn::Through, now, &face);
                self.cross(junction, side, Turn::Left, now, &face);
            }
        }
        let (approaches, ways_out) = self.lanes.split_at_mut(self.city.way_out(0, Side::North));
        for lane in ways_out {
            while lane.vehicles.pop_front_if(|vehicle| vehicle.at_line <= now).is_some() {
                self.totals.left += 1;
            }
        }
        self.totals.queued = 0;
        for lane in approaches {
            let held_up: u32 = lane.vehicles.iter().take_while(|vehicle| vehicle.at_line <= now).map(|_| 1).sum();
            self.totals.queued += held_up;
        }
        self.totals.delay_s += f64::from(self.totals.queued);
    }

    fn enter(&mut self, lane: usize, turns: Vec<Turn>, at_line: Timestamp) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.entered += 1;
            lane.vehicles.push_back(Vehicle { turns, at_line });
        }
    }

    /// Lets the first vehicle of a lane go if it may. `main` is the turn that most of the lane's vehicles make.
    fn cross(&mut self, junction: usize, side: Side, main: Turn, now: Timestamp, face: &impl Fn(usize, usize) -> Face) {
        let number = City::approach(junction, side, main);
        let gap = self.has_gap(junction, side, now, face);
        let Some(lane) = self.lanes.get_mut(number) else { return };
        let first = lane.vehicles.front();
        let waits = first.is_some_and(|vehicle| vehicle.at_line <= now);
        let (turn, next_turn) = first.map_or((main, None), |v| (*v.turns.last().unwrap_or(&main), v.turns.iter().nth_back(1).copied()));
        let speed_kmh = if first.is_some_and(|vehicle| vehicle.at_line == now) { SPEED_MS * 3.6 } else { QUEUE_SPEED_KMH };
        lane.seen.occupied_s += u32::from(waits);
        let shown = face(junction, City::movement(side, turn));
        let was_open = mem::replace(&mut lane.open, shown != Face::Red);
        if lane.open && !was_open && waits {
            lane.ready = lane.ready.max(now + STARTUP_LOSS);
        }
        let yields = match (shown, turn) {
            (Face::Red, _) => true,
            (Face::Green, _) | (Face::Permitted, Turn::Through | Turn::Right) => false,
            (Face::Permitted, Turn::Left) => !gap,
            // Who has waited in the middle of the junction clears it once the opposing traffic has stopped.
            (Face::Yellow(since), Turn::Left) => since < YELLOW_USED && !gap,
            (Face::Yellow(since), _) => since >= YELLOW_USED,
        };
        if !waits || yields || lane.ready > now {
            return;
        }
        let exit = side.exit(turn);
        let (target, room) = match self.city.neighbour(junction, exit) {
            Some(next) => (City::approach(next, exit.opposite(), next_turn.unwrap_or(Turn::Through)), storage(exit)),
            None => (self.city.way_out(junction, exit), usize::MAX),
        };
        if self.lanes.get(target).is_none_or(|lane| lane.vehicles.len() >= room) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(number) else { return };
        let Some(mut vehicle) = lane.vehicles.pop_front() else { return };
        lane.ready = now + if turn == Turn::Right { HEADWAY_RIGHT } else { HEADWAY };
        lane.seen.passed += 1;
        lane.seen.speed_sum_kmh += speed_kmh;
        vehicle.turns.pop();
        self.enter(target, vehicle.turns, now + travel(exit));
    }

    /// Whether a left turn from this side finds a gap in the opposing traffic.
    fn has_gap(&self, junction: usize, side: Side, now: Timestamp, face: &impl Fn(usize, usize) -> Face) -> bool {
        let opposing = face(junction, City::movement(side.opposite(), Turn::Through));
        let stopped = match opposing {
            Face::Green | Face::Permitted => false,
            Face::Yellow(since) => since >= YELLOW_USED,
            Face::Red => true,
        };
        let lane = self.lanes.get(City::approach(junction, side.opposite(), Turn::Through));
        stopped || lane.and_then(|lane| lane.vehicles.front()).is_none_or(|first| first.at_line > now + GAP)
    }

    /// Vehicles that wait on this lane and the opposite one, or are nearly there.
    #[cfg(test)]
    pub(crate) fn waiting(&self, junction: usize, side: Side, turn: Turn, now: Timestamp) -> usize {
        let near = |side| self.lanes[City::approach(junction, side, turn)].vehicles.iter().take_while(|v| v.at_line <= now + GAP).count();
        near(side) + near(side.opposite())
    }

    /// What the detectors of a junction have to say, as the API takes it.
    pub(crate) fn readings(&mut self, junction: usize, now: Timestamp) -> Vec<Value> {
        let mut readings = Side::ALL.map(|side| self.exit_reading(junction, side, now)).to_vec();
        let (id, step_s) = (self.city.id(junction), self.city.step_s);
        for (side, turn) in Side::ALL.into_iter().flat_map(|side| [(side, Turn::Through), (side, Turn::Left)]) {
            let lane = self.lanes.get_mut(City::approach(junction, side, turn));
            readings.extend(lane.map(|lane| lane_reading(lane, &id, &City::lane_id(side, turn), now, step_s)));
        }
        readings
    }

    /// An exit is watched over its whole length, all lanes together.
    fn exit_reading(&mut self, junction: usize, side: Side, now: Timestamp) -> Value {
        let lanes = match self.city.neighbour(junction, side) {
            Some(next) => [Turn::Through, Turn::Left].map(|turn| City::approach(next, side.opposite(), turn)).to_vec(),
            None => vec![self.city.way_out(junction, side)],
        };
        let (mut volume, mut vehicles, mut queue) = (0, 0, 0);
        for lane in lanes {
            let Some(lane) = self.lanes.get_mut(lane) else { continue };
            volume += mem::take(&mut lane.entered);
            vehicles += lane.vehicles.len();
            queue += lane.vehicles.iter().take_while(|vehicle| vehicle.at_line < now).count();
        }
        json!({
            "type": "detector", "intersection_id": self.city.id(junction), "detector_id": City::exit_id(side), "time": now,
            "period_s": self.city.step_s, "volume": volume, "vehicles": vehicles, "queue": queue,
        })
    }
}

fn lane_reading(lane: &mut Lane, junction: &str, detector: &str, now: Timestamp, step_s: u32) -> Value {
    let seen = mem::take(&mut lane.seen);
    let (mut standing, mut moving) = ([0_u32; BINS], [0_u32; BINS]);
    let mut last_m = -SPACING_M;
    for vehicle in &lane.vehicles {
        let free_m = vehicle.at_line.since(now).as_secs() * SPEED_MS;
        let at_m = free_m.max(last_m + SPACING_M);
        last_m = at_m;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place on the road; past the zone it has no bin")]
        let bin = (at_m / BIN_M) as usize;
        let bins = if at_m > free_m || vehicle.at_line < now { &mut standing } else { &mut moving };
        let Some(count) = bins.get_mut(bin) else { break };
        *count += 1;
    }
    let queue: u32 = standing.iter().sum();
    let speed_kmh = (seen.speed_sum_kmh / f64::from(seen.passed) * 10.0).round() / 10.0;
    json!({
        "type": "detector", "intersection_id": junction, "detector_id": detector, "time": now, "period_s": step_s,
        "volume": seen.passed,
        "occupancy": f64::from(seen.occupied_s.min(step_s)) / f64::from(step_s),
        "speed_mean_kmh": (seen.passed > 0).then_some(speed_kmh),
        "vehicles": queue + moving.iter().sum::<u32>(),
        "queue": queue,
        "profile": {
            "bin_m": BIN_M,
            "vehicles": standing.iter().zip(&moving).map(|(s, m)| s + m).collect::<Vec<_>>(),
            "moving": moving,
            "speed_mean_kmh": moving.map(|count| (count > 0).then_some(50)),
        },
    })
}

fn travel(side: Side) -> Deciseconds {
    Deciseconds::from_secs(side.travel_s())
}

/// Vehicles that find room on a lane of this road.
fn storage(side: Side) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few dozen")]
    let vehicles = (side.length_m() / SPACING_M) as usize;
    vehicles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);

    fn second(n: u32) -> Timestamp {
        START + Deciseconds::from_secs(n)
    }

    /// Faces that change without any order, as no cabinet would show them.
    fn any_face(seed: u64, n: u32, junction: usize, movement: usize) -> Face {
        let place = u64::from(n / 15) * 1000 + u64::try_from(junction * 16 + movement).unwrap();
        let mixed = (seed ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 62;
        [Face::Red, Face::Green, Face::Permitted, Face::Yellow(Deciseconds::from_secs(n % 3))][usize::try_from(mixed).unwrap()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn vehicles_are_conserved_none_passes_on_red_and_the_same_seed_gives_the_same_run(seed: u64) {
            let city = City::default();
            let (mut demand, mut again) = (Demand::new(city, seed), Demand::new(city, seed));
            let (mut traffic, mut twin) = (Traffic::new(city), Traffic::new(city));
            for n in 0..900 {
                let face = |junction, movement| any_face(seed, n, junction, movement);
                let first = |l: &Lane| (l.vehicles.front().and_then(|v| v.turns.last().copied()), l.seen.passed);
                let before: Vec<_> = traffic.lanes.iter().map(first).collect();
                traffic.step(second(n), &demand.arrivals(second(n)), face);
                twin.step(second(n), &again.arrivals(second(n)), face);
                let inside: usize = traffic.lanes.iter().map(|lane| lane.vehicles.len()).sum();
                prop_assert_eq!(traffic.totals().arrived, traffic.totals().left + u32::try_from(inside).unwrap());
                let sides = city.junctions().flat_map(|j| Side::ALL.map(|s| (j, s)));
                for (junction, side, main) in sides.flat_map(|(j, s)| [(j, s, Turn::Through), (j, s, Turn::Left)]) {
                    let number = City::approach(junction, side, main);
                    let (lane, (turn, passed)) = (&traffic.lanes[number], before[number]);
                    // Nobody passes who has just arrived, so there was somebody before.
                    prop_assert!(lane.seen.passed == passed || face(junction, City::movement(side, turn.unwrap())) != Face::Red);
                    prop_assert!(city.neighbour(junction, side).is_none() || lane.vehicles.len() <= storage(side));
                }
            }
            prop_assert_eq!(traffic.totals(), twin.totals());
            prop_assert!(city.junctions().all(|j| traffic.readings(j, second(900)) == twin.readings(j, second(900))));
        }
    }

    /// Vehicles that stand on the northern lane for through traffic of the first junction, all of one turn.
    fn platoon(size: usize, turn: Turn) -> Traffic {
        let mut traffic = Traffic::new(City::default());
        for _ in 0..size {
            traffic.enter(City::approach(0, Side::North, turn), vec![turn; 4], START);
        }
        traffic
    }

    fn passed_in(traffic: &mut Traffic, seconds: u32, face: impl Fn(usize) -> Face) -> u32 {
        for n in 0..seconds {
            traffic.step(second(n), &[], |junction, movement| if junction == 0 { face(movement) } else { Face::Red });
        }
        traffic.lanes[City::approach(0, Side::North, Turn::Through)].seen.passed
            + traffic.lanes[City::approach(0, Side::North, Turn::Left)].seen.passed
    }

    #[test]
    fn a_standing_queue_starts_after_two_seconds_and_moves_at_saturation_flow() {
        assert_eq!(passed_in(&mut platoon(30, Turn::Through), 20, |_| Face::Green), 9);
    }

    #[test]
    fn a_left_turn_that_gives_way_waits_for_a_gap() {
        let mut traffic = platoon(5, Turn::Left);
        traffic.enter(City::approach(0, Side::South, Turn::Through), vec![Turn::Through; 2], second(12));
        let only_lefts = |movement| if movement == City::movement(Side::South, Turn::Through) { Face::Green } else { Face::Permitted };
        // At 2, 4 and 6 s; then the opposing vehicle is less than 4.5 s away until it has passed at 12 s.
        assert_eq!(passed_in(&mut traffic, 12, only_lefts), 3);
        assert_eq!(traffic.lanes[City::approach(0, Side::North, Turn::Left)].vehicles.len(), 2);
    }

    #[test]
    fn a_detector_tells_what_stands_and_what_moves() {
        let mut traffic = platoon(3, Turn::Through);
        traffic.enter(City::approach(0, Side::North, Turn::Through), vec![Turn::Through], second(10 + 5));
        for n in 0..10 {
            traffic.step(second(n), &[], |_, _| Face::Red);
        }
        let readings = traffic.readings(0, second(10));
        let north = readings.iter().find(|r| r["detector_id"] == "n_through").unwrap();
        assert_eq!((&north["volume"], &north["vehicles"], &north["queue"]), (&json!(0), &json!(4), &json!(3)));
        assert_eq!(north["profile"]["vehicles"], json!([3, 0, 1, 0, 0, 0, 0, 0]));
        assert_eq!(north["profile"]["moving"], json!([0, 0, 1, 0, 0, 0, 0, 0]));
    }
}
