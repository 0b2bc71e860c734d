//! Whole junctions with traffic from a seeded generator.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the numbers of these tests are small"
)]

use proptest::prelude::*;
use shared::asset::{AssetHealth, Fault, HealthState};
use shared::reading::DetectorFault;
use shared::units::Deciseconds;

use super::*;

const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;
/// 2026-01-05, a Monday.
const START: i64 = 20_458 * DAY_MS;

/// xorshift64*: enough chance for traffic.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> f64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0.0);
        while product > limit {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}

/// Vehicles per quarter of an hour at a time of the week: two peaks on weekdays, a hump on weekends.
fn usual(detector: usize, at: i64) -> f64 {
    let (hour, weekend) = ((at.rem_euclid(DAY_MS) as f64) / 3_600_000.0, (at.div_euclid(DAY_MS) + 3).rem_euclid(7) >= 5);
    let peak = |centre: f64, width: f64| (-((hour - centre) / width).powi(2)).exp();
    let shape = if weekend { peak(14.0, 5.0) } else { 0.8 * peak(8.0, 2.0) + peak(17.0, 3.0) + 0.5 * peak(12.5, 4.0) };
    [60.0, 45.0, 30.0, 20.0, 40.0, 12.0][detector % 6] * (0.05 + shape)
}

struct Street {
    junction: JunctionDetectors,
    chance: Chance,
    at: i64,
    detectors: usize,
    period_ms: i64,
    out: Vec<Transition>,
}

impl Street {
    fn new(seed: u64, detectors: usize, period_ms: i64) -> Self {
        let junction = JunctionDetectors::new(IntersectionId::try_from("J1").unwrap());
        Self { junction, chance: Chance(seed * 2 + 1), at: START, detectors, period_ms, out: vec![] }
    }

    /// Detectors of a quarter of an hour that know two weeks and a half of their street.
    fn known(seed: u64) -> Self {
        let mut street = Self::new(seed, 6, BIN_MS);
        street.run(17 * DAY_MS, |_, _, count| Some(count));
        assert_eq!(street.out, [], "nothing was wrong");
        street
    }

    /// Lets time pass; `sees` turns what passed a detector into what it reports.
    fn run(&mut self, span_ms: i64, sees: impl Fn(usize, i64, f64) -> Option<f64>) {
        self.run_with(span_ms, usual, sees);
    }

    fn run_with(&mut self, span_ms: i64, flow: impl Fn(usize, i64) -> f64, sees: impl Fn(usize, i64, f64) -> Option<f64>) {
        for _ in 0..span_ms / self.period_ms {
            self.at += self.period_ms;
            for detector in 0..self.detectors {
                let passed = self.chance.poisson(flow(detector, self.at) * self.period_ms as f64 / BIN_MS as f64);
                if let Some(volume) = sees(detector, self.at, passed) {
                    let reading =
                        DetectorReading { period: Deciseconds::new((self.period_ms / 100) as u32), ..reading(detector, self.at, volume) };
                    self.junction.fold(&SensorReading::Detector(reading), &mut self.out);
                }
            }
        }
    }

    /// What changed: detector, fault, begin or end, minutes after `since`.
    fn told(&mut self, since: i64) -> Vec<(String, Fault, Change, i64)> {
        let told = self.out.drain(..);
        told.map(|change| (change.asset_id.to_string(), change.fault, change.change, (change.at.as_millis() - since) / MINUTE_MS)).collect()
    }

    fn health(&self, detector: usize) -> AssetHealth {
        let id = AssetId::try_from(format!("J1/d{detector}").as_str()).unwrap();
        self.junction.health(Timestamp::from_millis(0)).into_iter().find(|health| health.asset_id == id).unwrap()
    }
}

fn reading(detector: usize, at: i64, volume: f64) -> DetectorReading {
    DetectorReading {
        intersection_id: IntersectionId::try_from("J1").unwrap(),
        detector_id: DetectorId::try_from(format!("d{detector}").as_str()).unwrap(),
        time: Timestamp::from_millis(at),
        period: Deciseconds::from_secs(900),
        volume: Some(volume),
        occupancy: None,
        speed_mean_kmh: None,
        vehicles: None,
        queue: None,
        profile: None,
        fault: None,
    }
}

fn event(at: i64, code: u16, parameter: u8) -> SensorReading {
    let (intersection_id, time) = (IntersectionId::try_from("J1").unwrap(), Timestamp::from_millis(at));
    SensorReading::ControllerEvent(ControllerEvent { intersection_id, time, code, parameter })
}

const HOUR_MS: i64 = 60 * MINUTE_MS;

#[test]
fn one_detector_that_misses_half_raises_one_alert_and_clears_it_when_repaired() {
    let mut street = Street::known(1);
    street.run(8 * HOUR_MS, |_, _, count| Some(count));
    let onset = street.at;
    street.run(DAY_MS, |detector, _, count| Some(if detector == 1 { (count / 2.0).floor() } else { count }));
    let told = street.told(onset);
    assert_eq!(told.len(), 1, "{told:?}");
    let (asset, fault, change, minutes) = &told[0];
    assert_eq!((asset.as_str(), *fault, *change), ("J1/d1", Fault::Undercount, Change::Raised));
    assert!((30..=6 * 60).contains(minutes), "{minutes}");
    let health = street.health(1);
    assert_eq!((health.state, health.fault), (HealthState::Alarm, Some(Fault::Undercount)));
    assert_eq!(health.reasons[0].indicator, "undercount");
    assert_eq!(street.health(0).state, HealthState::Normal);
    let repaired = street.at;
    street.run(DAY_MS, |_, _, count| Some(count));
    let told = street.told(repaired);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].1, told[0].2), (Fault::Undercount, Change::Cleared));
}

#[test]
fn double_counts_and_bursts_are_found_within_hours() {
    for (seed, faulty) in [(2, Fault::Overcount), (3, Fault::Chatter)] {
        let mut street = Street::known(seed);
        street.run(8 * HOUR_MS, |_, _, count| Some(count));
        let onset = street.at;
        street.run(10 * HOUR_MS, |detector, at, count| {
            let burst = if (at / BIN_MS) % 3 == 0 { 80.0 } else { 0.0 };
            let false_counts = if faulty == Fault::Chatter { burst } else { (count * 0.6).round() };
            Some(if detector == 2 { count + false_counts } else { count })
        });
        let told = street.told(onset);
        assert_eq!(told.iter().map(|told| (told.0.as_str(), told.1)).collect::<Vec<_>>(), [("J1/d2", faulty)]);
    }
}

#[test]
fn a_dead_detector_is_found_within_the_hour_and_the_repair_too() {
    let mut street = Street::known(4);
    street.run(9 * HOUR_MS, |_, _, count| Some(count));
    let onset = street.at;
    street.run(4 * HOUR_MS, |detector, _, count| Some(if detector == 0 { 0.0 } else { count }));
    let told = street.told(onset);
    assert_eq!(told.iter().map(|told| told.1).collect::<Vec<_>>(), [Fault::StuckOff]);
    assert!(told[0].3 <= 60, "{told:?}");
    let repaired = street.at;
    street.run(6 * HOUR_MS, |_, _, count| Some(count));
    let told = street.told(repaired);
    assert_eq!(told.iter().map(|told| (told.1, told.2)).collect::<Vec<_>>(), [(Fault::StuckOff, Change::Cleared)]);
    assert!(told[0].3 <= 120, "{told:?}");
}

#[test]
fn silence_is_found_after_three_periods_and_gaps_after_hours() {
    let mut street = Street::known(5);
    let onset = street.at;
    street.run(2 * HOUR_MS, |detector, _, count| (detector != 3).then_some(count));
    assert_eq!(street.told(onset), [("J1/d3".to_owned(), Fault::NoData, Change::Raised, 45)]);
    street.run(2 * HOUR_MS, |_, _, count| Some(count));
    assert_eq!(street.told(onset), [("J1/d3".to_owned(), Fault::NoData, Change::Cleared, 180)]);
    let onset = street.at;
    street.run(6 * HOUR_MS, |detector, at, count| (detector != 3 || (at / BIN_MS) % 2 == 0).then_some(count));
    let told = street.told(onset);
    assert_eq!(told.iter().map(|told| (told.0.as_str(), told.1)).collect::<Vec<_>>(), [("J1/d3", Fault::NoData)]);
}

#[test]
fn what_happens_to_all_detectors_is_traffic() {
    let hour = |at: i64| at.rem_euclid(DAY_MS) / HOUR_MS;
    for seed in 6..9 {
        let mut street = Street::known(seed);
        // A holiday on a Thursday, weather, the hour of a daylight-saving change, and a new level for good.
        street.run_with(DAY_MS, |detector, at| usual(detector, at + 2 * DAY_MS), |_, _, count| Some(count));
        street.run_with(3 * DAY_MS, |detector, at| usual(detector, at) * if hour(at) > 15 { 0.6 } else { 1.0 }, |_, _, count| Some(count));
        street.run_with(5 * DAY_MS, |detector, at| usual(detector, at + HOUR_MS), |_, _, count| Some(count));
        street.run_with(5 * DAY_MS, |detector, at| 0.5 * usual(detector, at + HOUR_MS), |_, _, count| Some(count));
        let since = street.at;
        assert_eq!(street.told(since), [], "seed {seed}");
    }
}

#[test]
fn traffic_that_changes_lanes_is_no_fault() {
    let mut street = Street::known(10);
    street.run(9 * HOUR_MS, |_, _, count| Some(count));
    let onset = street.at;
    // One lane is closed for six hours, and its traffic uses the next.
    let diverted = |detector, at| match detector {
        0 => 0.15 * usual(0, at),
        1 => usual(1, at) + 0.85 * usual(0, at),
        _ => usual(detector, at),
    };
    street.run_with(6 * HOUR_MS, diverted, |_, _, count| Some(count));
    street.run(DAY_MS, |_, _, count| Some(count));
    assert_eq!(street.told(onset), []);
}

#[test]
fn before_a_profile_is_known_only_physics_speaks() {
    let mut street = Street::new(11, 4, BIN_MS);
    street.run(DAY_MS + 12 * HOUR_MS, |detector, _, count| Some(if detector == 1 { (count / 3.0).floor() } else { count }));
    assert_eq!(street.told(START), []);
    let health = street.health(1);
    assert_eq!((health.state, health.reasons[0].indicator.as_str()), (HealthState::Normal, "profile_days"));
}

#[test]
fn before_its_profile_is_known_a_lane_that_is_used_at_some_hours_only_is_no_dead_detector() {
    let mut street = Street::new(12, 4, 60_000);
    for _ in 0..3 {
        street.run(8 * HOUR_MS, |detector, _, count| Some(if detector == 0 { 0.0 } else { count }));
        street.run(2 * HOUR_MS, |_, _, count| Some(count));
        street.run(14 * HOUR_MS, |detector, _, count| Some(if detector == 0 { 0.0 } else { count }));
    }
    assert_eq!(street.told(START), []);
}

#[test]
fn a_silent_detector_at_short_periods_is_found_and_cleared_within_minutes() {
    let mut street = Street::new(12, 4, 5_000);
    street.at += 8 * HOUR_MS;
    street.run(40 * MINUTE_MS, |_, _, count| Some(count));
    let onset = street.at;
    street.run(10 * MINUTE_MS, |detector, _, count| (detector != 2).then_some(count));
    assert_eq!(street.told(onset), [("J1/d2".to_owned(), Fault::NoData, Change::Raised, 5)]);
    street.run(5 * MINUTE_MS, |_, _, count| Some(count));
    assert_eq!(street.told(onset), [("J1/d2".to_owned(), Fault::NoData, Change::Cleared, 11)]);
}

/// Five-second readings of three detectors for so many minutes, the first one as `change` makes it.
fn minutes(street: &mut Street, minutes: i64, change: impl Fn(&mut DetectorReading)) -> Vec<(Fault, Change)> {
    let since = street.at;
    for _ in 0..minutes * 12 {
        street.at += 5_000;
        for detector in 0..3 {
            let mut reading = reading(detector, street.at, if (street.at / 5_000) % 3 == 0 { 1.0 } else { 0.0 });
            (reading.period, reading.occupancy) = (Deciseconds::from_secs(5), Some(0.2));
            if detector == 0 {
                change(&mut reading);
            }
            street.junction.fold(&SensorReading::Detector(reading), &mut street.out);
        }
    }
    street.told(since).into_iter().map(|(_, fault, change, _)| (fault, change)).collect()
}

#[test]
fn physics_names_what_cannot_be() {
    let mut street = Street::new(13, 3, 5_000);
    assert_eq!(minutes(&mut street, 30, |_| ()), []);
    let occupied = |reading: &mut DetectorReading| (reading.volume, reading.occupancy) = (Some(0.0), Some(1.0));
    assert_eq!(minutes(&mut street, 9, occupied), []);
    assert_eq!(minutes(&mut street, 2, occupied), [(Fault::StuckOn, Change::Raised)]);
    assert_eq!(minutes(&mut street, 6, |_| ()), [(Fault::StuckOn, Change::Cleared)]);
    assert_eq!(minutes(&mut street, 3, |reading| reading.volume = Some(9.0)), [(Fault::Chatter, Change::Raised)]);
    assert_eq!(minutes(&mut street, 16, |_| ()), [(Fault::Chatter, Change::Cleared)]);
    let erratic = |reading: &mut DetectorReading| reading.fault = Some(DetectorFault::Communication);
    assert_eq!(minutes(&mut street, 1, erratic), [(Fault::NoData, Change::Raised)]);
    assert_eq!(minutes(&mut street, 6, |_| ()), [(Fault::NoData, Change::Cleared)]);
    let since = street.at;
    let once =
        |reading: &mut DetectorReading| reading.fault = (reading.time.as_millis() == since + 5_000).then_some(DetectorFault::MaxPresence);
    assert_eq!(minutes(&mut street, 5, once), [], "one report may be an error");
}

#[test]
fn a_configured_detector_that_never_reports_has_no_data() {
    let mut street = Street::new(14, 3, 5_000);
    let configured = [0, 1, 2, 9].map(|detector| DetectorId::try_from(format!("d{detector}").as_str()).unwrap());
    street.junction.expect(&configured, Timestamp::from_millis(street.at), &mut street.out);
    street.run(20 * MINUTE_MS, |_, _, count| Some(count));
    assert_eq!(street.told(START), [("J1/d9".to_owned(), Fault::NoData, Change::Raised, 15)]);
    assert_eq!(street.health(9).reasons[0].text, "It is configured, but has never been heard of.");
}

#[test]
fn a_silent_junction_is_found_by_the_sweep_and_its_backlog_is_not_late() {
    let (mut swept, mut prompt) = (Street::known(15), Street::known(15));
    let since = swept.at;
    swept.junction.sweep(Timestamp::from_millis(since + 40 * MINUTE_MS), &mut swept.out);
    assert_eq!(swept.told(since), []);
    swept.junction.sweep(Timestamp::from_millis(since + HOUR_MS), &mut swept.out);
    assert_eq!(swept.told(since).len(), 6);
    for street in [&mut swept, &mut prompt] {
        street.run(2 * HOUR_MS, |_, _, count| Some(count));
    }
    assert_eq!(swept.told(since).iter().filter(|told| told.2 == Change::Cleared).count(), 6);
    let after = |street: &Street| street.junction.detectors.iter().map(|detector| detector.traffic.profile.clone()).collect::<Vec<_>>();
    assert_eq!(swept.junction.as_of(), prompt.junction.as_of());
    assert!(after(&swept) != after(&Street::known(15)), "it went on learning");
}

#[test]
fn a_gap_of_all_detectors_is_nobodys_fault() {
    let mut street = Street::known(23);
    let since = street.at;
    street.at += 90 * MINUTE_MS;
    street.run(6 * HOUR_MS, |detector, _, count| (detector != 5).then_some(count));
    let told = street.told(since);
    assert_eq!(
        told.iter().map(|told| (told.0.as_str(), told.1)).collect::<Vec<_>>(),
        [("J1/d5", Fault::NoData)],
        "but one never came back"
    );
}

#[test]
fn a_clock_that_jumps_changes_nothing_for_the_others() {
    let mut street = Street::known(16);
    let since = street.at;
    let far = reading(0, since + 400 * DAY_MS, 20.0);
    street.junction.fold(&SensorReading::Detector(far), &mut street.out);
    street.run(6 * HOUR_MS, |_, _, count| Some(count));
    assert_eq!(street.told(since), []);
    assert_eq!(street.junction.as_of(), Some(Timestamp::from_millis(street.at)));
    assert_eq!(street.health(0).state, HealthState::Normal);
}

#[test]
fn a_junction_that_began_in_the_far_future_comes_back() {
    let mut street = Street::new(17, 4, BIN_MS);
    street.junction.fold(&SensorReading::Detector(reading(0, START + 4_000 * DAY_MS, 5.0)), &mut street.out);
    street.run(6 * HOUR_MS, |_, _, count| Some(count));
    assert_eq!(street.junction.as_of(), Some(Timestamp::from_millis(street.at)));
    assert!((0..4).all(|detector| street.health(detector).state == HealthState::Normal));
}

#[test]
fn what_cannot_be_counted_never_becomes_the_rule() {
    let mut street = Street::known(18);
    let profile = |street: &Street| street.junction.detectors[0].traffic.profile.clone();
    let before = profile(&street);
    street.run(6 * HOUR_MS, |detector, at, count| match detector {
        0 => Some([f64::NAN, f64::INFINITY, -5.0, 1e300][((at / BIN_MS) % 4) as usize]),
        _ => Some(count),
    });
    assert_eq!(profile(&street), before);
    assert!(street.out.iter().all(|change| change.asset_id.as_str() == "J1/d0" && change.fault == Fault::Chatter));
}

#[test]
fn a_level_that_lasts_for_two_weeks_is_taken_for_the_truth() {
    let mut street = Street::known(19);
    let half = |detector: usize, _: i64, count: f64| Some(if detector == 1 { (count / 2.0).floor() } else { count });
    street.run(13 * DAY_MS, half);
    assert_eq!(street.health(1).state, HealthState::Alarm);
    street.run(3 * DAY_MS, half);
    assert_eq!(street.health(1).state, HealthState::Normal);
    street.out.clear();
    street.run(14 * DAY_MS, half);
    let since = street.at;
    assert_eq!(street.told(since), []);
    street.run(DAY_MS, |detector, _, count| Some(if detector == 1 { 0.0 } else { count }));
    assert_eq!(street.told(since).iter().map(|told| told.1).collect::<Vec<_>>(), [Fault::StuckOff], "the next fault is found");
}

#[test]
fn hourly_counts_are_judged_too() {
    let mut street = Street::new(20, 6, HOUR_MS);
    street.run(17 * DAY_MS + 8 * HOUR_MS, |_, _, count| Some(count));
    let onset = street.at;
    assert_eq!(street.told(onset), []);
    street.run(2 * DAY_MS, |detector, _, count| Some(if detector == 4 { (count * 0.4).floor() } else { count }));
    let told = street.told(onset);
    assert_eq!(told.iter().map(|told| (told.0.as_str(), told.1)).collect::<Vec<_>>(), [("J1/d4", Fault::Undercount)]);
}

#[test]
fn channels_of_a_controller_are_detectors() {
    let mut street = Street::new(21, 0, 5_000);
    let mut fold = |at_s: i64, code, parameter| {
        street.junction.fold(&event(START + at_s * 1_000, code, parameter), &mut street.out);
        street.out.drain(..).map(|change| (change.asset_id.to_string(), change.fault, change.change)).collect::<Vec<_>>()
    };
    assert_eq!(fold(0, 82, 5), []);
    for at in 1..70 {
        for (delay, code) in [(0, 82), (2, 81)] {
            let told = fold(at * 10 + delay, code, 6);
            let stuck = ("J1/ch5".to_owned(), Fault::StuckOn, Change::Raised);
            assert_eq!(told, if at == 60 && code == 82 { vec![stuck] } else { vec![] }, "{at}");
        }
    }
    assert_eq!(fold(700, 81, 5), [("J1/ch5".to_owned(), Fault::StuckOn, Change::Cleared)]);
    assert_eq!(fold(701, 87, 7), [("J1/ch7".to_owned(), Fault::NoData, Change::Raised)]);
    assert_eq!(fold(702, 83, 7), [("J1/ch7".to_owned(), Fault::NoData, Change::Cleared)]);
}

#[test]
fn further_detectors_than_can_be_followed_are_ignored() {
    let mut street = Street::new(22, 0, BIN_MS);
    let mut fold = |detector| street.junction.fold(&SensorReading::Detector(reading(detector, START, 1.0)), &mut street.out);
    assert!((0..DETECTORS_MAX).all(|detector| fold(detector) == Folded::New));
    assert_eq!(fold(DETECTORS_MAX), Folded::Ignored);
}

fn anything() -> impl Strategy<Value = SensorReading> {
    let time = prop_oneof![8 => 0..3 * DAY_MS, 1 => any::<i32>().prop_map(|far| i64::from(far) * 100_000)];
    let measure = || {
        prop_oneof![
            Just(None),
            Just(Some(0.0)),
            (0.0..200.0).prop_map(Some),
            Just(Some(f64::NAN)),
            Just(Some(f64::INFINITY)),
            Just(Some(1e308))
        ]
    };
    let fault = prop_oneof![4 => Just(None), 1 => Just(Some(DetectorFault::Erratic)), 1 => Just(Some(DetectorFault::Communication))];
    let detector = (0..5_usize, time.clone(), 1..864_000_u32, measure(), measure(), measure(), fault).prop_map(
        |(detector, at, period, volume, occupancy, vehicles, fault)| {
            let period = Deciseconds::new(period);
            SensorReading::Detector(DetectorReading { period, volume, occupancy, vehicles, fault, ..reading(detector, START + at, 0.0) })
        },
    );
    let event = (time, 80..90_u16, 0..4_u8).prop_map(|(at, code, parameter)| event(START + at, code, parameter));
    prop_oneof![5 => detector, 1 => event]
}

/// Faults that stand; panics where one begins twice or ends without having begun.
fn follow(standing: &mut Vec<(AssetId, Fault)>, out: Vec<Transition>) {
    for Transition { asset_id, fault, change, .. } in out {
        let known = standing.iter().position(|entry| *entry == (asset_id.clone(), fault));
        match (change, known) {
            (Change::Raised, None) => standing.push((asset_id, fault)),
            (Change::Cleared, Some(place)) => drop(standing.remove(place)),
            (change, _) => panic!("{asset_id}: {fault:?} {change:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn anything_may_come_and_no_fault_begins_twice_nor_does_the_state_grow(readings in prop::collection::vec(anything(), 1..300)) {
        let mut junction = JunctionDetectors::new(IntersectionId::try_from("J1").unwrap());
        let mut standing = vec![];
        for reading in &readings {
            let mut out = vec![];
            junction.fold(reading, &mut out);
            follow(&mut standing, out);
        }
        let bytes = postcard::to_stdvec(&junction).unwrap();
        prop_assert!(bytes.len() <= 2_048 * junction.detectors.len().max(1), "{}", bytes.len());
        prop_assert_eq!(postcard::from_bytes::<JunctionDetectors>(&bytes).unwrap(), junction.clone());
        let finite = junction.health(Timestamp::from_millis(0)).iter().flat_map(|health| &health.reasons).all(|reason| reason.contribution.is_finite());
        prop_assert!(finite);
    }

    #[test]
    fn what_came_already_changes_nothing(seed in 1..u64::MAX / 4, places in prop::collection::vec((0..600_usize, 0..600_usize), 1..20)) {
        let mut chance = Chance(seed | 1);
        let readings: Vec<_> = (0..600).map(|n| {
            let (detector, at) = (n % 3, START + (n / 3) as i64 * BIN_MS);
            SensorReading::Detector(reading(detector, at, chance.poisson(usual(detector, at))))
        }).collect();
        let (mut once, mut repeated) = ((JunctionDetectors::new(IntersectionId::try_from("J1").unwrap()), vec![]), (JunctionDetectors::new(IntersectionId::try_from("J1").unwrap()), vec![]));
        for (n, reading) in readings.iter().enumerate() {
            once.0.fold(reading, &mut once.1);
            repeated.0.fold(reading, &mut repeated.1);
            for (_, earlier) in places.iter().filter(|(after, earlier)| *after == n && earlier <= after) {
                prop_assert_eq!(repeated.0.fold(&readings[*earlier], &mut repeated.1), Folded::Replayed);
            }
        }
        prop_assert_eq!(once, repeated);
    }
}
