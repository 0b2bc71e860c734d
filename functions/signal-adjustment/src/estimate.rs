//! From readings to demand: what waits on each lane, and which detectors have a say.
//!
//! Readings are folded one by one. A reading that was seen before, or is older than what is known, changes nothing. Values
//! are kept in the resolution in which they are stored, so that a warm and a cold function decide alike.

use serde::{Deserialize, Serialize};
use shared::ids::DetectorId;
use shared::intersection::{Intersection, Lane};
use shared::reading::DetectorReading;
use shared::units::{Deciseconds, Timestamp};

/// A detector is silent when nothing came for so many of its periods.
pub const SILENT_AFTER_PERIODS: u32 = 3;

/// After this time what a detector said does not bear on signals any more, whatever its period: three steps, or as long as a
/// plan is valid.
pub fn longest_silence(intersection: &Intersection) -> Deciseconds {
    let control = intersection.control();
    Deciseconds::new(control.step.tenths() * SILENT_AFTER_PERIODS).max(control.plan_ttl)
}

/// Vehicles nearer than this will be at the stop line before the next decision: 50 m at 36 km/h are 5 s.
const NEAR_M: f64 = 50.0;
/// Space of a standing vehicle, m. Source: HCM 6, queue storage, 25 ft for passenger cars.
const VEHICLE_SPACING_M: f64 = 7.5;
/// Range of an area detector, m, where the lane is longer.
const DETECTION_RANGE_M: f64 = 200.0;
/// More vehicles than this in one zone are a fault: four lanes of 200 m, bumper to bumper.
const ZONE_VEHICLES_MAX: f64 = 110.0;
/// Shortest headway of a lane, s; a count above it (and a margin for lane changes) is a fault.
const HEADWAY_MIN_S: f64 = 1.0;
const VOLUME_MARGIN: f64 = 5.0;
/// Faster than this is no road traffic, km/h.
const SPEED_MAX_KMH: f64 = 250.0;
/// Weight of the newest period in the arrival rate.
const RATE_WEIGHT: f64 = 0.2;
/// Stored resolution: sixteenths of a vehicle and 1/4096 vehicle per second.
const WAITING_STEPS: f64 = 16.0;
const RATE_STEPS: f64 = 4096.0;

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

/// What is known of one detector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectorState {
    /// End of the newest period.
    pub last: Option<i64>,
    /// Length of that period, ds.
    pub period_ds: u32,
    /// Vehicles that wait or are about to, in sixteenths; none if the detector only counts.
    pub waiting_16th: Option<u16>,
    /// Arrivals, vehicles per 4096 s.
    pub rate_4096th: u16,
    /// It reported a fault of its own.
    pub fault: bool,
    /// It reported what cannot be.
    pub implausible: bool,
    /// Maintenance holds it in alarm.
    pub in_alarm: bool,
}

impl DetectorState {
    /// Takes over a reading; false if it is not newer than what is known.
    pub fn fold(&mut self, reading: &DetectorReading, lane: Option<&Lane>) -> bool {
        if self.last.is_some_and(|last| reading.time.as_millis() <= last) {
            return false;
        }
        let known = self.last.is_some();
        self.last = Some(reading.time.as_millis());
        self.period_ds = reading.period.tenths();
        self.fault = reading.fault.is_some();
        self.implausible = !plausible(reading);
        if self.fault || self.implausible {
            // What it says is not used, now or later.
            self.waiting_16th = None;
            return true;
        }
        *self = self.with(waiting(reading, lane), self.rate());
        if let Some(volume) = reading.volume {
            let rate = volume / reading.period.as_secs();
            let before = self.rate();
            let rate = if known { before + RATE_WEIGHT * (rate - before) } else { rate };
            *self = self.with(self.waiting(), rate);
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

    /// Vehicles that wait on its lane or are about to, if it has a say. A detector that only counts stands for the
    /// arrivals since the lane turned red.
    pub fn demand(&self, now: Timestamp, longest: Deciseconds, red_for: Deciseconds) -> Option<f64> {
        if self.distrust(now, longest).is_some() {
            return None;
        }
        Some(self.waiting().unwrap_or_else(|| self.rate() * red_for.as_secs()))
    }

    /// Vehicles that wait or are about to; none if it only counts.
    pub(crate) fn waiting(&self) -> Option<f64> {
        self.waiting_16th.map(|sixteenths| f64::from(sixteenths) / WAITING_STEPS)
    }

    /// Arrivals, vehicles per second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.rate_4096th) / RATE_STEPS
    }

    /// The same detector with this demand.
    pub(crate) fn with(self, waiting: Option<f64>, rate: f64) -> Self {
        let waiting_16th = waiting.map(|vehicles| quantise(vehicles, WAITING_STEPS));
        Self { waiting_16th, rate_4096th: quantise(rate, RATE_STEPS), ..self }
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

/// Vehicles that wait or will have to before the next decision, from the best measure that the reading has.
fn waiting(reading: &DetectorReading, lane: Option<&Lane>) -> Option<f64> {
    if let Some(profile) = &reading.profile {
        let bins = profile.vehicles.iter().zip(&profile.moving).enumerate();
        return Some(
            bins.map(|(i, (&vehicles, &moving))| {
                #[expect(clippy::cast_precision_loss, reason = "at most 64 bins")]
                let near = (i as f64) * profile.bin_m < NEAR_M;
                if near { vehicles } else { (vehicles - moving).max(0.0) }
            })
            .sum(),
        );
    }
    let by_occupancy = |occupancy: f64| occupancy * lane.map_or(0.0, |l| l.length_m.min(DETECTION_RANGE_M)) / VEHICLE_SPACING_M;
    reading.queue.or(reading.vehicles).or(reading.occupancy.map(by_occupancy))
}

/// What is known of all detectors of an intersection, in the order of [`Intersection::detectors`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    detectors: Vec<DetectorState>,
}

impl Estimate {
    /// Nothing is known yet.
    pub fn unknown(intersection: &Intersection) -> Self {
        Self { detectors: vec![DetectorState::default(); intersection.detectors().count()] }
    }

    /// From what was stored.
    pub(crate) const fn from_detectors(detectors: Vec<DetectorState>) -> Self {
        Self { detectors }
    }

    /// What is known of each detector.
    pub fn detectors(&self) -> &[DetectorState] {
        &self.detectors
    }

    /// Takes over a reading; false if it changes nothing: replayed, late, or of a detector that is not configured.
    pub fn fold(&mut self, intersection: &Intersection, reading: &DetectorReading) -> bool {
        let lane = intersection.lanes().iter().find(|lane| lane.detector_id.as_ref() == Some(&reading.detector_id));
        let number = intersection.detectors().position(|detector| *detector == reading.detector_id);
        number.and_then(|n| self.detectors.get_mut(n)).is_some_and(|state| state.fold(reading, lane))
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
