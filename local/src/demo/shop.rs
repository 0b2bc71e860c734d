//! What breaks in the city, and the crew that repairs it: it knows of a fault only what the alerts say.

use std::mem;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use shared::ids::AlertId;
use shared::units::{Deciseconds, Timestamp};

use super::api::{Api, DemoError};
use super::city::{City, Side, Turn};
use super::turbine::{self, Turbine};

/// When the first detector breaks, and how much later the next one.
const FIRST_FAULT: Deciseconds = Deciseconds::from_secs(6 * 60);
const NEXT_FAULT: Deciseconds = Deciseconds::from_secs(20 * 60);
/// How often the crew looks at the alerts.
const LOOK: Deciseconds = Deciseconds::from_secs(15);
/// From the alert until somebody says that they know, and from then until it is repaired.
const ACKNOWLEDGED_AFTER: Deciseconds = Deciseconds::from_secs(60);
const REPAIRED_AFTER: Deciseconds = Deciseconds::from_secs(2 * 60);
/// Who works here.
const CREW: &str = "demo crew";

/// How a detector breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Its cable is cut.
    Silent,
    /// It is occupied without end.
    StuckOn,
}

struct Broken {
    junction: String,
    detector: String,
    failure: Failure,
}

/// An alert that the crew has seen.
struct Job {
    alert: AlertId,
    asset: String,
    seen: Timestamp,
    acknowledged: Option<Timestamp>,
    repaired: bool,
}

/// The workshop.
pub(super) struct Shop {
    city: City,
    rng: ChaCha8Rng,
    turbine: Turbine,
    broken: Vec<Broken>,
    next_fault: Timestamp,
    next_look: Timestamp,
    jobs: Vec<Job>,
    news: Vec<String>,
    /// Nothing has broken yet: a cut cable shows soonest.
    is_first: bool,
}

impl Shop {
    pub(super) fn new(city: City, seed: u64, start: Timestamp) -> Self {
        let (next_fault, rng) = (start + FIRST_FAULT, ChaCha8Rng::seed_from_u64(seed));
        let turbine = Turbine::new(seed, start);
        Self { city, rng, turbine, broken: Vec::new(), next_fault, next_look: start, jobs: Vec::new(), news: Vec::new(), is_first: true }
    }

    /// What happened since it was last asked, a line each.
    pub(super) fn news(&mut self) -> impl Iterator<Item = String> + use<> {
        mem::take(&mut self.news).into_iter()
    }

    /// Tells Greenwave of what is not part of a junction.
    ///
    /// # Errors
    /// [`DemoError`] if the API refuses it.
    pub(super) async fn register(api: &Api) -> Result<(), DemoError> {
        api.register(turbine::ID, &Turbine::document()).await
    }

    /// Breaks what is due, gives the readings the faults of their detectors, and adds those of the turbine.
    pub(super) fn spoil(&mut self, now: Timestamp, readings: &mut Vec<Value>) {
        readings.extend(self.turbine.reading(now));
        if now >= self.next_fault {
            self.next_fault = now + NEXT_FAULT;
            self.break_one(now);
        }
        let text = |reading: &Value, name: &str| reading.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let failure = |reading: &Value| {
            let (junction, detector) = (text(reading, "intersection_id"), text(reading, "detector_id"));
            self.broken.iter().find(|broken| broken.junction == junction && broken.detector == detector).map(|broken| broken.failure)
        };
        readings.retain_mut(|reading| match failure(reading) {
            None => true,
            Some(Failure::Silent) => false,
            Some(Failure::StuckOn) => {
                let kept = ["type", "intersection_id", "detector_id", "time", "period_s"];
                if let Some(fields) = reading.as_object_mut() {
                    fields.retain(|name, _| kept.contains(&name.as_str()));
                    fields.extend([("volume".to_owned(), json!(0)), ("occupancy".to_owned(), json!(1.0))]);
                }
                true
            }
        });
    }

    fn break_one(&mut self, now: Timestamp) {
        let junctions = self.city.junctions().count();
        let junction = self.city.id(self.rng.random_range(0..junctions));
        let side = Side::ALL.into_iter().nth(self.rng.random_range(0..4)).unwrap_or(Side::North);
        let detector = City::lane_id(side, Turn::Through);
        let failure = if self.is_first || self.rng.random_range(0..2) == 0 { Failure::Silent } else { Failure::StuckOn };
        self.is_first = false;
        let what = match failure {
            Failure::Silent => "the cable is cut",
            Failure::StuckOn => "it sticks",
        };
        self.say(now, &format!("detector {junction}/{detector} breaks ({what})"));
        self.broken.push(Broken { junction, detector, failure });
    }

    /// Looks at the alerts, acknowledges what is new and repairs what is known for long enough.
    ///
    /// # Errors
    /// [`DemoError`] if the API refuses or cannot be understood.
    pub(super) async fn look(&mut self, api: &Api, now: Timestamp) -> Result<(), DemoError> {
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK;
        let open = api.alerts("open").await?;
        for alert in &open {
            if self.jobs.iter().all(|job| job.alert != alert.id) {
                self.say(now, &format!("ALERT {} {}: {}", alert.asset_id, alert.fault.name(), alert.text));
                let asset = alert.asset_id.to_string();
                self.jobs.push(Job { alert: alert.id.clone(), asset, seen: now, acknowledged: None, repaired: false });
            }
        }
        let mut lines = Vec::new();
        for job in &mut self.jobs {
            match job.acknowledged {
                None if now >= job.seen + ACKNOWLEDGED_AFTER => {
                    if let Some(alert) = open.iter().find(|alert| alert.id == job.alert) {
                        api.acknowledge(alert, CREW, "On our way.").await?;
                        lines.push(format!("the crew acknowledges the alert of {}", job.asset));
                    }
                    job.acknowledged = Some(now);
                }
                Some(at) if !job.repaired && now >= at + REPAIRED_AFTER => {
                    job.repaired = true;
                    self.broken.retain(|broken| format!("{}/{}", broken.junction, broken.detector) != job.asset);
                    if job.asset == turbine::ID {
                        self.turbine.overhaul();
                    }
                    lines.push(format!("the crew has repaired {}", job.asset));
                }
                _ => {}
            }
        }
        if self.jobs.iter().any(|job| job.repaired) {
            for alert in api.alerts("cleared").await? {
                if let Some(done) = self.jobs.iter().position(|job| job.repaired && job.alert == alert.id) {
                    self.jobs.swap_remove(done);
                    lines.push(format!("the alert of {} is cleared", alert.asset_id));
                }
            }
        }
        for line in &lines {
            self.say(now, line);
        }
        Ok(())
    }

    fn say(&mut self, now: Timestamp, line: &str) {
        self.news.push(format!("{}  {line}", now.to_string().get(11..19).unwrap_or_default()));
    }
}
