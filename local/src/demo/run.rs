//! The loop of the demo: readings to the API every five simulated seconds, plans from it to the cabinets, a line of figures
//! each second.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use serde_json::Value;
use shared::intersection::Intersection;
use shared::units::{Deciseconds, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};

use super::api::{Api, DemoError};
use super::cabinet::{Cabinet, Face};
use super::city::{City, STEP_S};
use super::shop::Shop;
use super::traffic::{Arrival, Demand, Traffic};

/// The first simulated day begins here: Monday, 2026-11-23, 07:00.
const FIRST_MORNING: Timestamp = Timestamp::from_millis(1_795_417_200_000);
const DAY_MS: i64 = 86_400_000;
/// Most readings of one request, as the contract says.
const READINGS_MAX: usize = 500;
/// Real time after which a plan is late: the city goes on without it.
const PLAN_WAIT: Duration = Duration::from_secs(5);
const PLAN_POLL: Duration = Duration::from_millis(4);

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// Same seed, same vehicles.
    pub seed: u64,
    /// Simulated seconds per real second; below 0.01 counts as 0.01, infinite means as fast as it goes.
    pub speed: f64,
    /// Simulated minutes; 0 means until stopped.
    pub minutes: f64,
    /// Where the API is served too, for the hints.
    pub url: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, speed: 20.0, minutes: 0.0, url: "http://127.0.0.1:8080".into() }
    }
}

/// What a run showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Simulated time, s.
    pub simulated_s: u32,
    /// Readings that the API accepted.
    pub readings: u64,
    /// Plans that the cabinets received.
    pub plans: u64,
    /// Plans that did not come in time.
    pub plans_late: u64,
    /// Seconds in which a plan asked for what a cabinet's limits forbid.
    pub refused: u32,
    /// Changes that a cabinet had to force so that nobody is red for too long.
    pub forced: u32,
    /// Vehicles so far; the same in both cities.
    pub vehicles: u32,
    /// Vehicles that are held up now.
    pub queued: u32,
    /// Mean delay per vehicle so far, s: time in the city beyond the time at free speed.
    pub delay_mean_s: f64,
    /// The same under the time-of-day plans.
    pub time_of_day_delay_mean_s: f64,
}

impl Summary {
    /// Of the mean delay against the time-of-day plans; negative is better.
    fn change_percent(&self) -> f64 {
        if self.time_of_day_delay_mean_s > 0.0 { (self.delay_mean_s / self.time_of_day_delay_mean_s - 1.0) * 100.0 } else { 0.0 }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (delay, alone, change) = (self.delay_mean_s, self.time_of_day_delay_mean_s, self.change_percent());
        writeln!(f, "{} simulated minutes, {} vehicles", self.simulated_s / 60, spaced(u64::from(self.vehicles)))?;
        writeln!(f, "mean delay per vehicle  {delay:.1} s under Greenwave, {alone:.1} s under the time-of-day plans: {change:+.0} %")?;
        writeln!(f, "readings  {} accepted", spaced(self.readings))?;
        writeln!(f, "plans     {} received, {} late", spaced(self.plans), self.plans_late)?;
        write!(f, "cabinets  {} s of plans refused, {} changes forced", self.refused, self.forced)
    }
}

/// Runs the demo against the API until it is stopped or its time is over. `report` takes lines for people.
///
/// # Errors
/// [`DemoError`] if the API refuses a request or answers what cannot be read.
pub async fn run(
    api: Router,
    options: Options,
    stop: impl Future<Output = ()>,
    mut report: impl FnMut(String),
) -> Result<Summary, DemoError> {
    let mut stop = pin!(stop);
    let mut demo = tokio::select! {
        biased;
        () = &mut stop => return Ok(Summary::default()),
        demo = Demo::begin(Api(api), options.seed) => demo?,
    };
    introduce(&options, demo.start, &mut report);
    let (began, mut next_line) = (Instant::now(), Duration::ZERO);
    while options.minutes <= 0.0 || demo.elapsed_s() < options.minutes * 60.0 {
        let due = Duration::try_from_secs_f64(demo.elapsed_s() / options.speed.max(0.01)).unwrap_or_default();
        let second = async {
            sleep_until(began + due).await;
            demo.second().await
        };
        tokio::select! {
            biased;
            () = &mut stop => break,
            done = second => done?,
        }
        demo.shop.news().for_each(&mut report);
        if began.elapsed() >= next_line {
            next_line = began.elapsed() + Duration::from_secs(1);
            report(demo.status());
        }
    }
    let summary = demo.summary();
    report(summary.to_string());
    Ok(summary)
}

fn introduce(Options { seed, speed, url, .. }: &Options, start: Timestamp, report: &mut impl FnMut(String)) {
    let junctions = City::default().junctions().count();
    report(format!("A made-up city of {junctions} junctions (seed {seed}), {speed} times faster than life, from {start}."));
    report("Greenwave runs its signals through the public API; the same vehicles drive under time-of-day plans beside it.".into());
    report(format!("  open {url}/"));
    let paths = [
        "/v1/intersections/demo-1-1/plan",
        "/v1/intersections/demo-1-1/decisions",
        "/v1/plans?prefix=demo-",
        "/v1/assets/demo-turbine-1/health",
        "/v1/alerts?status=open",
    ];
    for path in paths {
        report(format!("  curl '{url}{path}'"));
    }
}

/// One of the two cities: its vehicles and its signals.
struct Town {
    traffic: Traffic,
    cabinets: Vec<Cabinet>,
}

impl Town {
    fn new(city: City, intersections: Vec<Intersection>, now: Timestamp) -> Self {
        Self { traffic: Traffic::new(city), cabinets: intersections.into_iter().map(|i| Cabinet::new(i, now)).collect() }
    }

    fn advance(&mut self, now: Timestamp) {
        self.cabinets.iter_mut().for_each(|cabinet| cabinet.advance(now));
    }

    fn second(&mut self, now: Timestamp, arrivals: &[Arrival]) {
        self.advance(now);
        self.cabinets.iter_mut().for_each(|cabinet| cabinet.follow(now));
        let cabinets = &self.cabinets;
        self.traffic.step(now, arrivals, |junction, movement| cabinets.get(junction).map_or(Face::Red, |c| c.face(movement, now)));
    }
}

struct Demo {
    api: Api,
    city: City,
    demand: Demand,
    shop: Shop,
    adaptive: Town,
    time_of_day: Town,
    start: Timestamp,
    now: Timestamp,
    counts: Summary,
}

impl Demo {
    async fn begin(api: Api, seed: u64) -> Result<Self, DemoError> {
        let city = City::default();
        let mut intersections = Vec::new();
        for junction in city.junctions() {
            intersections.push(api.configure(&city.id(junction), &city.document(junction)).await?);
        }
        Shop::register(&api).await?;
        // Readings older than those of the last run would be late: a new run is a new day.
        let newest = api.plans().await?.iter().map(|plan| plan.as_of).max();
        let start = newest.map_or(FIRST_MORNING, morning_after);
        let (adaptive, time_of_day) = (Town::new(city, intersections.clone(), start), Town::new(city, intersections, start));
        let (demand, shop, counts) = (Demand::new(city, seed), Shop::new(city, seed, start), Summary::default());
        Ok(Self { api, city, demand, shop, adaptive, time_of_day, start, now: start, counts })
    }

    fn elapsed_s(&self) -> f64 {
        self.now.since(self.start).as_secs()
    }

    /// One second in both cities.
    async fn second(&mut self) -> Result<(), DemoError> {
        if self.now.since(self.start).tenths().is_multiple_of(STEP_S * 10) {
            self.step().await?;
        }
        let arrivals = self.demand.arrivals(self.now);
        self.adaptive.second(self.now, &arrivals);
        self.time_of_day.second(self.now, &arrivals);
        self.now = self.now + Deciseconds::from_secs(1);
        Ok(())
    }

    /// Tells Greenwave what the sensors see and takes its plans to the cabinets.
    async fn step(&mut self) -> Result<(), DemoError> {
        self.adaptive.advance(self.now);
        let mut readings: Vec<Value> = self.adaptive.cabinets.iter().map(|cabinet| cabinet.reading(self.now)).collect();
        for junction in self.city.junctions() {
            readings.extend(self.adaptive.traffic.readings(junction, self.now));
        }
        self.shop.spoil(self.now, &mut readings);
        for part in readings.chunks(READINGS_MAX) {
            self.counts.readings += self.api.post(part).await?;
        }
        let (asked, mut missing): (_, Vec<_>) = (Instant::now(), self.city.junctions().map(|j| (j, self.city.id(j))).collect());
        loop {
            for plan in self.api.plans().await? {
                let found = missing.iter().position(|(_, id)| plan.as_of >= self.now && *id == plan.intersection_id.as_str());
                let Some((junction, _)) = found.map(|i| missing.swap_remove(i)) else { continue };
                if let Some(cabinet) = self.adaptive.cabinets.get_mut(junction) {
                    self.counts.plans += 1;
                    cabinet.take(plan);
                }
            }
            if missing.is_empty() || asked.elapsed() >= PLAN_WAIT {
                break;
            }
            sleep(PLAN_POLL).await;
        }
        self.counts.plans_late += u64::try_from(missing.len()).unwrap_or_default();
        self.shop.look(&self.api, self.now).await
    }

    fn summary(&self) -> Summary {
        let (adaptive, alone) = (self.adaptive.traffic.totals(), self.time_of_day.traffic.totals());
        Summary {
            simulated_s: self.now.since(self.start).tenths() / 10,
            refused: self.adaptive.cabinets.iter().map(|c| c.refused).sum(),
            forced: self.adaptive.cabinets.iter().map(|c| c.forced).sum(),
            vehicles: adaptive.arrived,
            queued: adaptive.queued,
            delay_mean_s: adaptive.delay_mean_s(),
            time_of_day_delay_mean_s: alone.delay_mean_s(),
            ..self.counts
        }
    }

    fn status(&self) -> String {
        let s = self.summary();
        format!(
            "{}  readings {:>9}  plans {:>7}  queued {:>4}  delay {:>5.1} s  time-of-day {:>5.1} s  {:>+4.0} %",
            self.now.to_string().get(11..19).unwrap_or_default(),
            spaced(s.readings),
            spaced(s.plans),
            s.queued,
            s.delay_mean_s,
            s.time_of_day_delay_mean_s,
            s.change_percent(),
        )
    }
}

/// 07:00 of the day after.
fn morning_after(newest: Timestamp) -> Timestamp {
    let days = (newest.as_millis() - FIRST_MORNING.as_millis()).div_euclid(DAY_MS) + 1;
    FIRST_MORNING.plus_millis(days.max(0).saturating_mul(DAY_MS))
}

/// 12 480 for 12480.
fn spaced(number: u64) -> String {
    let digits = number.to_string();
    let grouped = digits.char_indices().flat_map(|(i, digit)| {
        let gap = i > 0 && (digits.len() - i).is_multiple_of(3);
        gap.then_some(' ').into_iter().chain([digit])
    });
    grouped.collect()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::http::header::{ETAG, IF_MATCH};
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::{get, post, put};
    use serde_json::json;
    use shared::plan::{PlanSource, PlanStage, PublishedPlan, Reason};

    use super::super::city::{Side, Turn};
    use super::*;

    fn town() -> Town {
        let city = City::default();
        let intersections = city.junctions().map(|junction| Intersection::try_from(city.document(junction)).unwrap());
        Town::new(city, intersections.collect(), FIRST_MORNING)
    }

    /// Mean delay in the town and in one under the time-of-day plans, when `decide` gives each cabinet its plan.
    fn drive(mut adaptive: Town, minutes: u32, mut decide: impl FnMut(&Town, usize, Timestamp) -> Option<PublishedPlan>) -> (f64, f64) {
        let city = City::default();
        let (mut demand, mut alone) = (Demand::new(city, 1), town());
        for n in 0..minutes * 60 {
            let now = FIRST_MORNING + Deciseconds::from_secs(n);
            adaptive.advance(now);
            for junction in city.junctions().filter(|_| n % STEP_S == 0) {
                if let Some(plan) = decide(&adaptive, junction, now) {
                    adaptive.cabinets[junction].take(plan);
                }
            }
            let arrivals = demand.arrivals(now);
            adaptive.second(now, &arrivals);
            alone.second(now, &arrivals);
        }
        assert_eq!(alone.cabinets.iter().map(|c| c.forced).sum::<u32>(), 0);
        (adaptive.traffic.totals().delay_mean_s(), alone.traffic.totals().delay_mean_s())
    }

    /// Serves the stage for which most vehicles wait or are near; nothing is hidden from it.
    fn greedy(town: &Town, junction: usize, now: Timestamp) -> Option<PublishedPlan> {
        let shown = town.cabinets[junction].reading(now)["stage"].as_str().unwrap().to_owned();
        let weight = |id: &str, side, turn| 2 * town.traffic.waiting(junction, side, turn, now) + usize::from(id == shown);
        let stages = [
            ("ns", Side::North, Turn::Through),
            ("ns_left", Side::North, Turn::Left),
            ("ew", Side::East, Turn::Through),
            ("ew_left", Side::East, Turn::Left),
        ];
        let best = stages.iter().max_by_key(|(id, side, turn)| weight(id, *side, *turn))?.0;
        Some(PublishedPlan {
            intersection_id: City::default().id(junction).as_str().try_into().unwrap(),
            revision: 1,
            as_of: now,
            valid_until: now + Deciseconds::from_secs(30),
            source: PlanSource::Adaptive,
            stages: vec![PlanStage { stage: best.try_into().unwrap(), start: now, green_s: Deciseconds::from_secs(30) }],
            reason: Reason { code: "greedy".into(), text: String::new() },
        })
    }

    #[test]
    fn who_sees_the_queues_does_better_than_the_time_of_day_plan() {
        let (delay, alone) = drive(town(), 60, greedy);
        assert!(delay < 0.85 * alone, "greedy {delay:.1} s, time of day {alone:.1} s");
    }

    #[test]
    fn no_time_of_day_plan_near_the_chosen_one_is_better() {
        let city = City::default();
        for (greens, wave) in [([17, 20, 5], 22), ([14, 24, 5], 22), ([14, 20, 8], 22), ([14, 20, 5], 0), ([23, 28, 5], 22)] {
            let mut town = town();
            for junction in city.junctions() {
                let mut document = city.document(junction);
                let cycle: u32 = greens.iter().map(|green| green + 4).sum();
                let stages =
                    ["ns", "ew", "ew_left"].into_iter().zip(greens).map(|(stage, green)| json!({"stage": stage, "green_s": green}));
                let offset = u32::try_from(junction % 3).unwrap() * wave % cycle;
                document["time_of_day_plan"] = json!({"offset_s": offset, "stages": stages.collect::<Vec<_>>()});
                town.cabinets[junction] = Cabinet::new(Intersection::try_from(document).unwrap(), FIRST_MORNING);
            }
            let (delay, chosen) = drive(town, 60, |_, _, _| None);
            assert!(chosen < delay, "{greens:?} with {wave}: {delay:.1} s, chosen {chosen:.1} s");
        }
    }

    fn quick(minutes: f64) -> Options {
        Options { speed: f64::INFINITY, minutes, ..Options::default() }
    }

    #[tokio::test]
    async fn greenwave_runs_the_city_within_the_limits_of_its_cabinets_and_a_second_run_is_another_day() {
        let directory = tempfile::tempdir().unwrap();
        let host = crate::serve::Host::start(directory.path(), 0, crate::serve::Options::default()).await.unwrap();
        for day in ["2026-11-23T07:00:00.000Z", "2026-11-24T07:00:00.000Z"] {
            let mut lines = Vec::new();
            let summary = run(host.router(), quick(5.0), pending(), |line| lines.push(line)).await.unwrap();
            assert!(lines[0].contains(day), "{}", lines[0]);
            assert_eq!((summary.readings, summary.plans, summary.simulated_s), (60 * 6 * 13 + 30, 60 * 6, 300));
            assert_eq!((summary.plans_late, summary.refused, summary.forced), (0, 0, 0));
            assert!(summary.vehicles > 100 && summary.delay_mean_s > 0.0);
        }
    }

    #[tokio::test]
    async fn what_breaks_or_wears_out_is_alerted_acknowledged_repaired_and_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let host = crate::serve::Host::start(directory.path(), 0, crate::serve::Options::default()).await.unwrap();
        let mut lines = Vec::new();
        run(host.router(), quick(30.0), pending(), |line| lines.push(line)).await.unwrap();
        let first = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no '{text}': {lines:#?}"));
        let broken = lines[first(" breaks ")].split("detector ").nth(1).unwrap().split(' ').next().unwrap();
        for (asset, fault) in [("demo-turbine-1", "end_of_life"), (broken, "no_data")] {
            let alerted = first(&format!("ALERT {asset} {fault}"));
            let course = ["the crew acknowledges the alert of", "the crew has repaired", "is cleared"].map(|what| {
                let told = |line: &String| line.contains(what) && line.contains(asset);
                lines.iter().position(told).unwrap_or_else(|| panic!("no '{what}' of {asset}: {lines:#?}"))
            });
            assert!(alerted < course[0] && course.is_sorted(), "{lines:#?}");
        }
    }

    /// An API that accepts everything and never has a plan.
    fn silent() -> Router {
        let accepted = post(|body: axum::Json<Value>| async move {
            axum::Json(json!({"accepted": body["readings"].as_array().unwrap().len(), "rejected": []}))
        });
        let plans = get(|| async { axum::Json(json!({"items": [], "next_cursor": null})) });
        Router::new()
            .route("/v1/plans", plans.clone())
            .route("/v1/alerts", plans)
            .route("/v1/readings", accepted)
            .route("/v1/intersections/{id}", put(|body: axum::Json<Value>| async { body }))
            .route("/v1/assets/{id}", put(|body: axum::Json<Value>| async { body }))
    }

    #[tokio::test(start_paused = true)]
    async fn without_plans_the_cabinets_help_themselves() {
        let summary = run(silent(), quick(2.0), pending(), |_| {}).await.unwrap();
        assert_eq!((summary.plans, summary.plans_late), (0, 6 * 24));
        assert!((summary.delay_mean_s - summary.time_of_day_delay_mean_s).abs() < 1e-9);
    }

    #[tokio::test]
    async fn a_run_that_is_stopped_ends_with_its_summary() {
        let options = Options { speed: 1.0, ..Options::default() };
        assert_eq!(run(silent(), options, async {}, |_| {}).await.unwrap(), Summary::default());
    }

    #[tokio::test]
    async fn a_refusal_names_the_request_and_what_is_wrong_with_it() {
        let guarded = put(|headers: HeaderMap, body: axum::Json<Value>| async move {
            let seen = headers.get(IF_MATCH).is_some_and(|tag| tag == "\"7\"");
            let refusal = json!({"code": "precondition_required", "detail": "It exists."});
            let (status, answer) = if seen { (StatusCode::OK, body.0) } else { (StatusCode::PRECONDITION_REQUIRED, refusal) };
            (status, [(ETAG, "\"7\"")], axum::Json(answer))
        });
        let refusing = post(|| async {
            let rejected = json!([{"index": 0, "pointer": "/time", "code": "too_old", "message": "is more than 24 h old"}]);
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                axum::Json(json!({"code": "no_valid_readings", "detail": "None of 78 readings is valid.", "errors": rejected})),
            )
        });
        let plans = get(|| async { axum::Json(json!({"items": []})) });
        let api = Router::new()
            .route("/v1/plans", plans)
            .route("/v1/readings", refusing)
            .route("/v1/intersections/{id}", guarded)
            .route("/v1/assets/{id}", put(|body: axum::Json<Value>| async { body }));
        let error = run(api, quick(1.0), pending(), |_| {}).await.unwrap_err();
        let text = "POST /v1/readings was answered 422 Unprocessable Entity: None of 78 readings is valid (no_valid_readings). First: /time is more than 24 h old.";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_new_run_begins_on_the_morning_after_the_last() {
        let at = |text| morning_after(Timestamp::parse(text).unwrap()).to_string();
        assert_eq!(at("2026-11-23T07:00:00Z"), "2026-11-24T07:00:00.000Z");
        assert_eq!(at("2026-11-25T06:59:59Z"), "2026-11-25T07:00:00.000Z");
        assert_eq!(at("2020-01-01T00:00:00Z"), "2026-11-23T07:00:00.000Z");
        assert_eq!([0, 999, 12_480, 1_234_567].map(spaced), ["0", "999", "12 480", "1 234 567"]);
    }
}
