//! What the sensors of a made-up city say, second by second: the demo's streets, signals and machines, in any number.

use std::f64::consts::TAU;

use maintenance_prediction::workflow::Workflow;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use shared::ids::IntersectionId;
use shared::intersection::Intersection;
use shared::item;
use shared::memory::{ManualClock, Memory};
use shared::plan::PublishedPlan;
use shared::ports::{ConditionReader, ConditionStore, IntersectionStore};
use shared::units::{Deciseconds, Timestamp};
use shared::wire::{ReadingRecord, parse_reading};

use super::meter::ITEM_OVERHEAD;
use super::{Args, CONFIGURATION_TTL, CostError};
use crate::demo::cabinet::{Cabinet, Face};
use crate::demo::city::City;
use crate::demo::traffic::{Demand, Traffic};
use crate::demo::turbine::Turbine;

/// Monday, 2026-11-23, 07:00.
pub(super) const MORNING: Timestamp = Timestamp::from_millis(1_795_417_200_000);
/// Days that detectors have counted before: what is usual is known, and its stored form has its full size.
const DAYS_BEFORE: i64 = 21;
/// Cycles that machines have run before.
const CYCLES_BEFORE: u32 = 40;
const QUARTER: Deciseconds = Deciseconds::from_secs(900);
const QUARTERS_OF_A_DAY: i64 = 96;

/// The city.
pub(super) struct Street {
    city: City,
    counts: bool,
    /// Detectors beyond those of the lanes.
    counters: u16,
    demand: Demand,
    traffic: Traffic,
    cabinets: Vec<Cabinet>,
    machines: Vec<Turbine>,
    cycle_s: u32,
    readings_per_post: usize,
    now: Timestamp,
    rng: ChaCha8Rng,
}

impl Street {
    pub(super) fn new(args: &Args, now: Timestamp) -> Self {
        let city = City::of(args.junctions, args.step_s);
        let cabinet = |junction| Intersection::try_from(city.document(junction)).ok().map(|found| Cabinet::new(found, now));
        let machine = |n: usize| {
            let (period, seed) = (Deciseconds::from_secs(args.cycle_s), n as u64);
            let before = Deciseconds::new(period.tenths().saturating_mul(CYCLES_BEFORE + 1));
            Turbine::with(format!("machine-{n}"), period, seed, now - before)
        };
        Self {
            city,
            counts: args.counts,
            counters: args.detectors.saturating_sub(12),
            demand: Demand::new(city, 1),
            traffic: Traffic::new(city),
            cabinets: city.junctions().filter_map(cabinet).collect(),
            machines: (0..args.machines).map(machine).collect(),
            cycle_s: args.cycle_s,
            readings_per_post: usize::try_from(args.readings_per_post).unwrap_or(usize::MAX),
            now,
            rng: ChaCha8Rng::seed_from_u64(2),
        }
    }

    /// Configures the junctions and lets maintenance see three weeks of counts and the first cycles of machines.
    pub(super) async fn prepare(&mut self, args: &Args, memory: &Memory) -> Result<(), CostError> {
        let refused = |what: &dyn std::fmt::Debug| CostError::Refused(format!("{what:?}"));
        let clock = ManualClock::at(self.now);
        let workflow = Workflow::new(memory.clone(), memory.clone(), memory.clone(), clock.clone(), CONFIGURATION_TTL);
        for junction in self.city.junctions() {
            if !args.counts {
                let found = Intersection::try_from(self.city.document(junction)).map_err(|faults| refused(&faults))?;
                memory.put(None, &found).await.map_err(|error| refused(&error))?;
            }
            let id = self.city.id(junction);
            for day in 0..DAYS_BEFORE {
                let end = |quarter: i64| self.now.plus_millis((quarter - DAYS_BEFORE * QUARTERS_OF_A_DAY) * QUARTER.as_millis());
                let quarters = (day * QUARTERS_OF_A_DAY + 1)..=((day + 1) * QUARTERS_OF_A_DAY);
                let readings = quarters.clone().flat_map(|quarter| self.quarter(junction, end(quarter)));
                let readings = readings.collect::<Result<Vec<_>, _>>()?;
                let received_at = end(*quarters.end());
                clock.set(received_at);
                let record = ReadingRecord { key: id.clone(), received_at, request_id: None, readings };
                workflow.handle(&id, &[record]).await.map_err(|error| refused(&error))?;
            }
        }
        for machine in &mut self.machines {
            let cycle = Deciseconds::from_secs(self.cycle_s);
            for n in (0..CYCLES_BEFORE).rev() {
                let at = self.now.plus_millis(-i64::from(n) * cycle.as_millis());
                let Some(reading) = machine.reading(at) else { continue };
                let reading = parse(&reading)?;
                let record = ReadingRecord { key: reading.key().to_owned(), received_at: at, request_id: None, readings: vec![reading] };
                workflow.handle(&record.key.clone(), &[record]).await.map_err(|error| refused(&error))?;
            }
        }
        Ok(())
    }

    /// What the detectors of a junction counted in the quarter of an hour that ends now.
    fn quarter(&self, junction: usize, now: Timestamp) -> Vec<Result<shared::reading::SensorReading, CostError>> {
        let id = self.city.id(junction);
        let hours = f64::from(u32::try_from(now.as_millis().rem_euclid(86_400_000) / 1000).unwrap_or_default()) / 3600.0;
        let usual = 40.0 + 30.0 * ((hours - 9.0) * TAU / 24.0).cos();
        let mut rng = ChaCha8Rng::seed_from_u64(now.as_millis().unsigned_abs() ^ junction as u64);
        let traffic = 0.9 + 0.2 * rng.random::<f64>();
        let readings = self.detectors().into_iter().map(|detector| {
            let volume = (usual * traffic + usual.sqrt() * (2.0 * rng.random::<f64>() - 1.0)).round();
            parse(&json!({"type": "detector", "intersection_id": id, "detector_id": detector, "time": now, "period_s": QUARTER, "volume": volume}))
        });
        readings.collect()
    }

    fn detectors(&self) -> Vec<String> {
        let mut traffic = Traffic::new(self.city);
        let name = |reading: &Value| reading.get("detector_id").and_then(Value::as_str).map(str::to_owned);
        let of_lanes = traffic.readings(0, self.now).iter().filter_map(name).collect::<Vec<_>>();
        of_lanes.into_iter().chain((0..self.counters).map(|n| format!("count_{n}"))).collect()
    }

    /// Posts of the next second: each junction reports at its own second of a step, with its neighbours in a post.
    pub(super) fn second(&mut self, second: u32) -> Vec<Vec<Value>> {
        self.cabinets.iter_mut().for_each(|cabinet| cabinet.advance(self.now));
        let per_junction = 12 + usize::from(self.counters) + usize::from(!self.counts);
        let per_post = (self.readings_per_post / per_junction).max(1);
        let groups: Vec<Vec<usize>> = self.city.junctions().collect::<Vec<_>>().chunks(per_post).map(<[_]>::to_vec).collect();
        let due = |group: usize, groups: usize, period: u32| {
            let phase = group as u64 * u64::from(period) / groups.max(1) as u64;
            u64::from(second % period) == phase
        };
        let mut posts = Vec::new();
        let step_s = self.city.step_s;
        for (_, group) in groups.iter().enumerate().filter(|(n, _)| due(*n, groups.len(), step_s)) {
            let readings: Vec<Value> = group.iter().flat_map(|&junction| self.junction(junction)).collect();
            posts.extend(readings.chunks(self.readings_per_post).map(<[_]>::to_vec));
        }
        let machines = self.machines.len().div_ceil(self.readings_per_post.max(1)).max(1);
        for (n, machines_of_post) in self.machines.chunks_mut(self.readings_per_post.max(1)).enumerate() {
            if due(n, machines, self.cycle_s) {
                posts.push(machines_of_post.iter_mut().filter_map(|machine| machine.reading(self.now)).collect());
            }
        }
        let arrivals = self.demand.arrivals(self.now);
        self.cabinets.iter_mut().for_each(|cabinet| cabinet.follow(self.now));
        let (cabinets, now) = (&self.cabinets, self.now);
        self.traffic.step(now, &arrivals, |junction, movement| cabinets.get(junction).map_or(Face::Red, |c| c.face(movement, now)));
        self.now = self.now + Deciseconds::from_secs(1);
        posts.retain(|post| !post.is_empty());
        posts
    }

    fn junction(&mut self, junction: usize) -> Vec<Value> {
        let mut readings = self.traffic.readings(junction, self.now);
        if self.counts {
            for reading in readings.iter_mut().filter_map(Value::as_object_mut) {
                for field in ["occupancy", "speed_mean_kmh", "vehicles", "queue", "profile"] {
                    reading.remove(field);
                }
            }
        } else {
            readings.extend(self.cabinets.get(junction).map(|cabinet| cabinet.reading(self.now)));
        }
        let (id, now, step_s) = (self.city.id(junction), self.now, self.city.step_s);
        readings.extend((0..self.counters).map(|n| {
            let volume = self.rng.random_range(0..3_u8);
            json!({"type": "detector", "intersection_id": id, "detector_id": format!("count_{n}"), "time": now, "period_s": step_s, "volume": volume})
        }));
        readings
    }

    /// Takes the plans to the signals.
    pub(super) fn take(&mut self, plans: Vec<PublishedPlan>) {
        for plan in plans {
            let of = |junction: &usize| self.city.id(*junction) == plan.intersection_id.as_str();
            if let Some(cabinet) = self.city.junctions().find(of).and_then(|junction| self.cabinets.get_mut(junction)) {
                cabinet.take(plan);
            }
        }
    }
}

fn parse(reading: &Value) -> Result<shared::reading::SensorReading, CostError> {
    let raw = serde_json::value::to_raw_value(reading).map_err(|error| CostError::Refused(error.to_string()))?;
    parse_reading(&raw).map_err(|fault| CostError::Refused(format!("{fault:?}")))
}

/// Bytes that lie in the tables, without decision records, and the size of a condition's item and of its state alone.
pub(super) struct Stored {
    pub(super) bytes: usize,
    pub(super) condition: usize,
    pub(super) state: usize,
    pub(super) junction: usize,
    pub(super) configuration: usize,
}

pub(super) async fn stored(memory: &Memory) -> Stored {
    let mut stored = Stored { bytes: 0, condition: 0, state: 0, junction: 0, configuration: 0 };
    let conditions = memory.conditions(None, usize::MAX).await.map(|page| page.items).unwrap_or_default();
    for condition in &conditions {
        let row = memory.load_condition(&condition.key).await.ok().flatten();
        let size = row.as_ref().and_then(|row| item::condition(row).ok()).map_or(0, |item| item.size());
        stored.bytes += size + ITEM_OVERHEAD;
        stored.condition = stored.condition.max(size);
        stored.state = stored.state.max(row.map_or(0, |row| row.state.len()));
    }
    for row in memory.junctions() {
        let size = item::junction(&row).map_or(0, |item| item.size());
        stored.bytes += size + ITEM_OVERHEAD;
        stored.junction = stored.junction.max(size);
        let id: &IntersectionId = &row.plan.intersection_id;
        if let Ok(Some((_, found))) = IntersectionStore::get(memory, id).await {
            let size = item::intersection(&found).size();
            stored.bytes += size + ITEM_OVERHEAD;
            stored.configuration = stored.configuration.max(size);
        }
    }
    stored
}
