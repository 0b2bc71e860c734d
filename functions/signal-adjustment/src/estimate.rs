//! From readings to demand: what waits on each lane, and which detectors have a say.
//!
//! Readings are folded one by one. A reading that was seen before, or is older than what is known, changes nothing. Values
//! are kept in the resolution in which they are stored, so that a warm and a cold function decide alike.

use serde::{Deserialize, Serialize};
use shared::ids::DetectorId;
use shared::intersection::{Intersection, Lane, Planner};
use shared::reading::{DetectorReading, Profile};
use shared::units::{Deciseconds, Timestamp};

use crate::control::flow_into;
use crate::demand::Queue;
use crate::signal::second;

/// A detector is silent when nothing came for so many of its periods.
pub const SILENT_AFTER_PERIODS: u32 = 3;

/// After this time what a detector said does not bear on signals any more, whatever its period: three steps, or as long as a
/// plan is valid.
pub fn longest_silence(intersection: &Intersection) -> Deciseconds {
    let control = intersection.control();
    Deciseconds::new(control.step.tenths() * SILENT_AFTER_PERIODS).max(control.plan_ttl)
}

/// Vehicles nearer to the stop line than this are in its queue, m: the first seven.
const NEAR_M: f64 = 50.0;
/// Space of a standing vehicle, m. Source: HCM 6, queue storage, 25 ft for passenger cars.
pub(crate) const VEHICLE_SPACING_M: f64 = 7.5;
/// Range of an area detector, m, where the lane is longer.
pub(crate) const DETECTION_RANGE_M: f64 = 200.0;
/// More vehicles than this in one zone are a fault: four lanes of 200 m, bumper to bumper.
const ZONE_VEHICLES_MAX: f64 = 110.0;
/// Shortest headway of a lane, s; a count above it (and a margin for lane changes) is a fault.
const HEADWAY_MIN_S: f64 = 1.0;
const VOLUME_MARGIN: f64 = 5.0;
/// A loop is stood upon if it was occupied for this share of its period: even a slow queue leaves gaps when it moves.
pub(crate) const STOOD_UPON: f64 = 0.8;
/// What the loop of an exit tells if it is stood upon and nobody gets over it: so much of the exit may be full.
const EXIT_STOOD_UPON: f64 = 0.8;
/// So long after its green began, those who stood nearest to the stop line have passed it, and those behind them move. Chosen in
/// simulation: after 4 s it told less.
const UNDER_WAY: Deciseconds = Deciseconds::from_secs(7);
/// Who reaches the stop line within so many seconds is near it, s.
const ABOUT_TO_PASS_S: usize = 6;
/// Faster than this is no road traffic, km/h.
const SPEED_MAX_KMH: f64 = 250.0;
/// The rate of a lane is that of some cycles: of so many seconds.
const RATE_S: f64 = 300.0;
/// What a lane is taken to bring before anything was counted, vehicles per second: 360 an hour.
pub(crate) const RATE_PRIOR: f64 = 0.1;
/// Stored resolution: sixteenths of a vehicle, 1/65536 vehicle per second, 1/200 of the time.
const WAITING_STEPS: f64 = 16.0;
const RATE_STEPS: f64 = 65_536.0;
const SHARE_STEPS: f64 = 200.0;

/// Why a detector has no say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distrust {
    /// It has not reported yet.
    NeverSeen,
    /// It has not reported for three periods.
    Silent,
    /// It reports a fault of its own.
    FaultReported,
    /// It reports what cannot be.
    Implausible,
    /// Maintenance holds it in alarm: its counts are not true.
    InAlarm,
}

impl Distrust {
    /// The word for records and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverSeen => "never_seen",
            Self::Silent => "silent",
            Self::FaultReported => "fault_reported",
            Self::Implausible => "implausible",
            Self::InAlarm => "in_alarm",
        }
    }
}

/// What the newest reading of a detector says of the vehicles that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// Nothing, or nothing that can be used.
    #[default]
    Nothing,
    /// How many stand or crawl, in sixteenths.
    Waiting(u16),
    /// What a loop at the stop line tells.
    Loop {
        /// Vehicles that passed in the period, in sixteenths.
        passed_16th: Option<u16>,
        /// For how many 200ths of the period somebody was over it.
        occupied_200th: Option<u8>,
        /// Which share of the time since its reading before the period is, in 200ths: all of it if none was lost.
        reported_200th: u8,
    },
}

impl Seen {
    pub(crate) fn waiting(vehicles: f64) -> Self {
        Self::Waiting(quantise(vehicles, WAITING_STEPS))
    }

    /// Of a loop, if it tells anything.
    pub(crate) fn by_loop(passed: Option<f64>, occupancy: Option<f64>, share_reported: f64) -> Self {
        let share = |share: f64| u8::try_from(quantise(share, SHARE_STEPS)).unwrap_or(u8::MAX);
        let passed_16th = passed.map(|vehicles| quantise(vehicles, WAITING_STEPS));
        let occupied_200th = occupancy.map(share);
        if passed_16th.is_none() && occupied_200th.is_none() {
            return Self::Nothing;
        }
        Self::Loop { passed_16th, occupied_200th, reported_200th: share(share_reported) }
    }

    /// Vehicles that a loop counted in the period.
    pub(crate) fn passed(self) -> Option<f64> {
        match self {
            Self::Loop { passed_16th, .. } => passed_16th.map(|sixteenths| f64::from(sixteenths) / WAITING_STEPS),
            Self::Nothing | Self::Waiting(_) => None,
        }
    }

    /// Which share of the time since the reading before this one tells of.
    pub(crate) fn share_reported(self) -> f64 {
        match self {
            Self::Loop { reported_200th, .. } => f64::from(reported_200th) / SHARE_STEPS,
            Self::Nothing | Self::Waiting(_) => 1.0,
        }
    }

    /// Share of the period in which somebody was over a loop.
    pub(crate) fn occupancy(self) -> Option<f64> {
        match self {
            Self::Loop { occupied_200th, .. } => occupied_200th.map(|share| f64::from(share) / SHARE_STEPS),
            Self::Nothing | Self::Waiting(_) => None,
        }
    }
}

/// What is known of one detector.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, that the device or maintenance tells")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectorState {
    /// End of the newest period.
    pub last: Option<i64>,
    /// Length of that period, ds.
    pub period_ds: u32,
    /// What its newest reading says of the vehicles that wait.
    pub seen: Seen,
    /// Vehicles that move towards the stop line, by the second in which they reach it.
    pub arrivals: Arrivals,
    /// Somebody stands at the stop line.
    pub head_stands: bool,
    /// Arrivals, vehicles per 65536 s; none if nothing was counted yet.
    pub rate_65536th: Option<u16>,
    /// It reported a fault of its own.
    pub fault: bool,
    /// It reported what cannot be.
    pub implausible: bool,
    /// Maintenance holds it in alarm.
    pub in_alarm: bool,
}

impl DetectorState {
    /// Takes over a reading; false if it is not newer than what is known.
    pub fn fold(&mut self, reading: &DetectorReading, lane: Option<&Lane>, speed_share: f64) -> bool {
        if self.last.is_some_and(|last| reading.time.as_millis() <= last) {
            return false;
        }
        let period = reading.period.as_secs();
        let gap = self.last.map_or(period, |last| reading.time.since(Timestamp::from_millis(last)).as_secs());
        self.last = Some(reading.time.as_millis());
        self.period_ds = reading.period.tenths();
        self.fault = reading.fault.is_some();
        self.implausible = !plausible(reading);
        if self.fault || self.implausible {
            // What it says is not used, now or later.
            self.seen = Seen::Nothing;
            self.arrivals = Arrivals::default();
            self.head_stands = false;
            return true;
        }
        self.seen =
            waiting(reading).map_or_else(|| Seen::by_loop(reading.volume, reading.occupancy, (period / gap).min(1.0)), Seen::waiting);
        self.head_stands = lane.is_some() && reading.profile.as_ref().is_some_and(Profile::head_stands);
        self.arrivals = lane.map(|lane| Arrivals::of(reading, lane, speed_share)).unwrap_or_default();
        if let Some(volume) = reading.volume {
            let before = self.rate().unwrap_or(RATE_PRIOR);
            self.set_rate(Some(before + (period / RATE_S).min(1.0) * (volume / period - before)));
        }
        true
    }

    /// Why it has no say at this instant, if it has none. However long its period, it is silent after `longest`.
    pub fn distrust(&self, now: Timestamp, longest: Deciseconds) -> Option<Distrust> {
        let Some(last) = self.last else { return Some(Distrust::NeverSeen) };
        if self.fault {
            Some(Distrust::FaultReported)
        } else if self.implausible {
            Some(Distrust::Implausible)
        } else if self.in_alarm {
            Some(Distrust::InAlarm)
        } else if now.since(Timestamp::from_millis(last))
            >= Deciseconds::new(self.period_ds.saturating_mul(SILENT_AFTER_PERIODS)).min(longest)
        {
            Some(Distrust::Silent)
        } else {
            None
        }
    }

    /// Whether it has a say at this instant.
    pub(crate) fn is_trusted(&self, intersection: &Intersection, now: Timestamp) -> bool {
        self.distrust(now, longest_silence(intersection)).is_none()
    }

    /// Vehicles that wait or are about to; none if it does not see them.
    pub(crate) fn waiting(&self) -> Option<f64> {
        match self.seen {
            Seen::Waiting(sixteenths) => Some(f64::from(sixteenths) / WAITING_STEPS),
            Seen::Nothing | Seen::Loop { .. } => None,
        }
    }

    /// Arrivals, vehicles per second; none if nothing was counted yet.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate_65536th.map(|rate| f64::from(rate) / RATE_STEPS)
    }

    pub(crate) fn set_rate(&mut self, rate: Option<f64>) {
        self.rate_65536th = rate.map(|rate| quantise(rate, RATE_STEPS));
    }

    /// Whole seconds since its newest reading.
    pub(crate) fn age(&self, now: Timestamp) -> usize {
        self.last.map_or(0, |last| (now.since(Timestamp::from_millis(last)).tenths() / 10) as usize)
    }

    /// Whether its lane was held up when it was last read, in a green that began at this instant: its head stood, and nobody was about
    /// to reach the stop line.
    pub(crate) fn is_held_up(&self, green_since: Timestamp) -> bool {
        let green = self.last.map_or(Deciseconds::ZERO, |last| Timestamp::from_millis(last).since(green_since));
        self.head_stands && green >= UNDER_WAY && self.arrivals.vehicles().take(ABOUT_TO_PASS_S).sum::<f64>() < Profile::SOMEBODY
    }

    /// Whether its newest reading belongs to a later second.
    pub(crate) fn is_newer_than(&self, at: Timestamp) -> bool {
        self.last.is_some_and(|last| second(Timestamp::from_millis(last)) > second(at))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u16 first")]
fn quantise(value: f64, steps: f64) -> u16 {
    (value * steps).round().clamp(0.0, f64::from(u16::MAX)) as u16
}

fn plausible(reading: &DetectorReading) -> bool {
    let seconds = reading.period.as_secs();
    let zone = |count: Option<f64>| count.is_none_or(|count| count <= ZONE_VEHICLES_MAX);
    zone(reading.vehicles)
        && zone(reading.queue)
        && reading.volume.is_none_or(|volume| volume <= seconds / HEADWAY_MIN_S + VOLUME_MARGIN)
        && reading.speed_mean_kmh.is_none_or(|speed| speed <= SPEED_MAX_KMH)
        && reading.profile.as_ref().is_none_or(|profile| zone(Some(profile.vehicles.iter().sum())))
}

/// Vehicles that stand or crawl, from the best measure that the reading has.
fn waiting(reading: &DetectorReading) -> Option<f64> {
    if let Some(profile) = &reading.profile {
        let bins = profile.vehicles.iter().zip(&profile.moving);
        return Some(bins.map(|(&vehicles, &moving)| (vehicles - moving).max(0.0)).sum());
    }
    reading.queue.or(reading.vehicles)
}

/// Moving vehicles by the second in which they reach the stop line; the last second stands for all later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// In sixteenths of a vehicle.
    by_second_16th: [u8; Self::SECONDS],
}

impl Arrivals {
    /// 200 m at 25 km/h.
    pub const SECONDS: usize = 28;

    /// From the profile of a reading: a vehicle keeps its speed, or is about to speed up to this share of the speed limit.
    fn of(reading: &DetectorReading, lane: &Lane, speed_share: f64) -> Self {
        let mut seconds = [0.0; Self::SECONDS];
        let Some(profile) = &reading.profile else { return Self::default() };
        let slowest = lane.speed_limit_kmh * speed_share;
        for (bin, (&moving, speed)) in profile.moving.iter().zip(&profile.speed_mean_kmh).enumerate() {
            let speed_kmh = speed.unwrap_or(lane.speed_limit_kmh).max(slowest);
            #[expect(clippy::cast_precision_loss, reason = "at most 64 bins")]
            let away_m = (bin as f64 + 0.5) * profile.bin_m;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a range of seconds")]
            let second = (away_m / (speed_kmh / 3.6)).clamp(0.0, 1000.0) as usize;
            if let Some(slot) = seconds.get_mut(second.min(Self::SECONDS - 1)) {
                *slot += moving;
            }
        }
        Self::from_vehicles(seconds)
    }

    pub(crate) fn from_vehicles(seconds: [f64; Self::SECONDS]) -> Self {
        let by_second_16th = seconds.map(|vehicles| u8::try_from(quantise(vehicles, WAITING_STEPS)).unwrap_or(u8::MAX));
        Self { by_second_16th }
    }

    /// Vehicles by second from now on.
    pub fn vehicles(&self) -> impl Iterator<Item = f64> {
        self.by_second_16th.iter().map(|&sixteenths| f64::from(sixteenths) / WAITING_STEPS)
    }
}

// Most seconds at the end are empty: they are left out.
impl Serialize for Arrivals {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let used = self.by_second_16th.iter().rposition(|&n| n > 0).map_or(0, |last| last + 1);
        self.by_second_16th.get(..used).unwrap_or_default().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Arrivals {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let used: Vec<u8> = Vec::deserialize(deserializer)?;
        let mut by_second_16th = [0; Self::SECONDS];
        for (slot, stored) in by_second_16th.iter_mut().zip(used) {
            *slot = stored;
        }
        Ok(Self { by_second_16th })
    }
}

/// How much more or less than the model's prior a lane discharges in a stage, learnt from passages at its stop line.
///
/// It stands for the saturation flow of the lane, for the shares of its turns and for the gaps that permitted movements find:
/// all of them show in one number, the flow while a queue lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discharge(u16);

impl Discharge {
    /// As the prior says.
    pub const PRIOR: Self = Self(Self::ONE);
    const ONE: u16 = 4096;

    /// From a factor on the prior.
    pub(crate) fn of(factor: f64) -> Self {
        Self(quantise(factor, f64::from(Self::ONE)))
    }

    /// Factor on the prior.
    pub fn factor(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE)
    }

    fn learn(&mut self, sample: f64, planner: &Planner) {
        let sample = sample.clamp(planner.discharge_min, planner.discharge_max);
        let next = self.factor() + planner.discharge_weight * (sample - self.factor());
        *self = Self::of(next);
    }
}

/// What is known of all detectors of an intersection, in the order of [`Intersection::detectors`], and of the discharge of
/// its lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    detectors: Vec<DetectorState>,
    /// For each lane, for each stage that serves it.
    discharge: Vec<Discharge>,
    /// For each lane.
    pub(crate) queues: Vec<Queue>,
}

/// Lanes with the stages that serve them, in the order in which their discharge is kept.
pub fn served(intersection: &Intersection) -> impl Iterator<Item = (usize, usize)> {
    let lanes = 0..intersection.lanes().len();
    lanes.flat_map(move |lane| {
        let serves = move |stage: &usize| {
            let movements = intersection.movements_of(*stage);
            movements.iter().any(|m| intersection.movements().get(m).is_some_and(|m| m.from_lane == Some(lane)))
        };
        (0..intersection.stages().len()).filter(serves).map(move |stage| (lane, stage))
    })
}

impl Estimate {
    /// Nothing is known yet.
    pub fn unknown(intersection: &Intersection) -> Self {
        Self {
            detectors: vec![DetectorState::default(); intersection.detectors().count()],
            discharge: vec![Discharge::PRIOR; served(intersection).count()],
            queues: vec![Queue::default(); intersection.lanes().len()],
        }
    }

    /// From what was stored.
    pub(crate) const fn from_parts(detectors: Vec<DetectorState>, discharge: Vec<Discharge>, queues: Vec<Queue>) -> Self {
        Self { detectors, discharge, queues }
    }

    /// What is known of each detector.
    pub fn detectors(&self) -> &[DetectorState] {
        &self.detectors
    }

    /// Discharge in the order of [`served`].
    pub fn discharge(&self) -> &[Discharge] {
        &self.discharge
    }

    /// Vehicles that wait on each lane.
    pub fn waiting(&self) -> impl Iterator<Item = f64> {
        self.queues.iter().map(|queue| queue.waiting())
    }

    /// Takes over a reading; false if it changes nothing: replayed, late, or of a detector that is not configured. `green` is
    /// the stage that has been green, past its start-up, during the whole period of the reading.
    pub fn fold(&mut self, intersection: &Intersection, reading: &DetectorReading, green: Option<usize>) -> bool {
        let lane = intersection.lanes().iter().position(|lane| lane.detector_id.as_ref() == Some(&reading.detector_id));
        let number = intersection.detectors().position(|detector| *detector == reading.detector_id);
        let Some(state) = number.and_then(|n| self.detectors.get_mut(n)) else { return false };
        let before = *state;
        let planner = &intersection.control().planner;
        if !state.fold(reading, lane.and_then(|lane| intersection.lanes().get(lane)), planner.approach_speed_share) {
            return false;
        }
        if let (Some(lane), Some(stage)) = (lane, green)
            && let Some(flow) = saturated_flow(&before, state, reading)
            && self.has_open_exits(intersection, lane, stage, reading.time)
            && let Some(number) = served(intersection).position(|pair| pair == (lane, stage))
            && let Some(discharge) = self.discharge.get_mut(number)
        {
            let prior = flow_into(intersection, lane, stage, &[]);
            if prior > 0.0 {
                discharge.learn(flow / prior, planner);
            }
        }
        true
    }

    /// Whether all that a lane discharges in a stage can leave: else its flow tells of the street behind the junction.
    pub(crate) fn has_open_exits(&self, intersection: &Intersection, lane: usize, stage: usize, now: Timestamp) -> bool {
        let of_lane = |m: &usize| intersection.movements().get(*m).filter(|m| m.from_lane == Some(lane));
        let movements = intersection.movements_of(stage);
        let free = intersection.control().planner.exit_free_share;
        let mut exits = movements.iter().filter_map(|m| of_lane(&m)?.to_exit);
        exits.all(|exit| self.standing_share(intersection, exit, now).is_none_or(|full| full < free))
    }

    /// Which share of an exit is full of standing vehicles; none if nobody knows.
    pub(crate) fn standing_share(&self, intersection: &Intersection, exit: usize, now: Timestamp) -> Option<f64> {
        let before = intersection.exits().get(..exit)?.iter().filter(|e| e.detector_id.is_some()).count();
        let lanes = intersection.lanes().iter().filter(|l| l.detector_id.is_some()).count();
        let exit = intersection.exits().get(exit).filter(|e| e.detector_id.is_some())?;
        let detector = self.detectors.get(lanes + before)?;
        if !detector.is_trusted(intersection, now) {
            return None;
        }
        let room = (exit.length_m.min(DETECTION_RANGE_M) / VEHICLE_SPACING_M).max(1.0);
        // A loop knows its place alone.
        let by_loop = |occupancy: f64| {
            let stands = occupancy >= STOOD_UPON && detector.seen.passed().is_none_or(|passed| passed <= 0.0);
            if stands { EXIT_STOOD_UPON } else { 0.0 }
        };
        detector.waiting().map(|standing| standing / room).or_else(|| detector.seen.occupancy().map(by_loop))
    }

    /// Takes the say from these detectors, and gives it back to all others.
    pub fn set_in_alarm(&mut self, intersection: &Intersection, in_alarm: &[DetectorId]) {
        for (state, detector) in self.detectors.iter_mut().zip(intersection.detectors()) {
            state.in_alarm = in_alarm.contains(detector);
        }
    }

    /// The state of the detector of each lane, by the lane's number; none where the lane has no detector.
    pub fn by_lane(&self, intersection: &Intersection) -> Vec<Option<DetectorState>> {
        let mut states = self.detectors.iter().copied();
        intersection.lanes().iter().map(|lane| lane.detector_id.as_ref().and_then(|_| states.next())).collect()
    }
}

/// Vehicles a second that passed the stop line while more wanted to than could.
fn saturated_flow(before: &DetectorState, now: &DetectorState, reading: &DetectorReading) -> Option<f64> {
    /// So many vehicles must be left near the stop line, or the last one may have passed before the period was over.
    const LEFT: f64 = 2.0;
    let follows = reading.time.as_millis() - before.last? == i64::from(reading.period.tenths()) * 100;
    let volume = reading.volume.filter(|_| follows && !now.fault && !now.implausible)?;
    let seconds = (reading.period.tenths() / 10) as usize;
    // Those who arrive in the last seconds may not have had the time.
    let arrived: f64 = before.arrivals.vehicles().take(seconds.saturating_sub(2)).sum();
    let wanted = before.waiting()? + arrived;
    let left = reading.profile.as_ref().map_or(now.waiting(), |profile| Some(profile.within(NEAR_M)))?;
    (wanted >= volume + LEFT && left >= LEFT).then_some(volume / reading.period.as_secs())
}
