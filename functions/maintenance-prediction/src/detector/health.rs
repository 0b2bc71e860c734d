//! From faults and evidence to what people read of a detector.

use shared::asset::{AssetHealth, Fault, HealthState, Reason};
use shared::ids::{AssetId, AssetKind};
use shared::units::Timestamp;

use super::evidence::{Hypothesis, RAISE};
use super::{Detector, JunctionDetectors};
use crate::advisory::Evidence;

/// A detector that was heard for so long, and passes the tests of physics, is taken to be in order before its profile is known.
const TESTED_MS: i64 = 10 * 60_000;
/// Health index of a detector in alarm whose counts are wrong, and of one that drifts.
const INDEX_WRONG: u8 = 20;
const INDEX_DRIFTING: u8 = 50;
/// Points of the health index that evidence just short of raising takes.
const POINTS_SUSPECTED: f32 = 50.0;
/// Evidence below this share of raising is not worth telling.
const TOLD_MIN: f32 = 0.25;

impl JunctionDetectors {
    /// The condition of each detector, in order of id; `unheard_at` is the time of a junction that was never heard.
    pub fn health(&self, unheard_at: Timestamp) -> Vec<AssetHealth> {
        let as_of = self.as_of().unwrap_or(unheard_at);
        let mut detectors: Vec<_> = self.detectors.iter().collect();
        detectors.sort_by(|a, b| a.id.cmp(&b.id));
        let health = |detector: &Detector| {
            let (state, health_index) = detector.verdict();
            AssetHealth {
                asset_id: AssetId::of_detector(&self.intersection_id, &detector.id),
                kind: AssetKind::detector(),
                as_of,
                state,
                health_index,
                remaining_useful_life: None,
                reasons: detector.reasons(as_of.as_millis()),
                fault: detector.standing.iter().next(),
                model: None,
            }
        };
        detectors.into_iter().map(health).collect()
    }
}

/// The health index left by a fault.
const fn index_of(fault: Fault) -> u8 {
    match fault {
        Fault::Undercount | Fault::Overcount | Fault::Chatter => INDEX_WRONG,
        Fault::Drift => INDEX_DRIFTING,
        _ => 0,
    }
}

impl Detector {
    /// In alarm, its counts must not steer signals.
    fn verdict(&self) -> (HealthState, Option<u8>) {
        if let Some(index) = self.standing.iter().map(index_of).min() {
            let state = if index == INDEX_DRIFTING { HealthState::Alert } else { HealthState::Alarm };
            return (state, Some(index));
        }
        let heard_ms = self.presence.newest.zip(self.presence.first).map_or(-1, |(newest, first)| newest - first);
        if heard_ms < TESTED_MS {
            return (HealthState::Unknown, None);
        }
        let suspected = (self.traffic.evidence.strongest() / RAISE).min(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 50 and 100")]
        let index = (100.0 - POINTS_SUSPECTED * suspected).round() as u8;
        (HealthState::Normal, Some(index))
    }

    /// What the verdict rests on, largest first.
    fn reasons(&self, now: i64) -> Vec<Reason> {
        let reason = |indicator: &str, contribution: f64, text| Reason { indicator: indicator.to_owned(), contribution, text };
        let mut reasons: Vec<_> = self
            .standing
            .iter()
            .map(|fault| reason(fault.name(), f64::from(index_of(fault)) - 100.0, self.grounds(fault, now).1))
            .collect();
        if self.standing.is_none() {
            let told = Hypothesis::ALL.into_iter().map(|hypothesis| (hypothesis, self.traffic.evidence.of(hypothesis).score / RAISE));
            reasons.extend(told.filter(|(_, share)| *share >= TOLD_MIN).map(|(hypothesis, share)| {
                let text = format!("{} Evidence is at {:.0} % of what raises an alert.", self.suspicion(hypothesis), 100.0 * share);
                reason(indicator(hypothesis), f64::from(-POINTS_SUSPECTED * share.min(1.0)), text)
            }));
        }
        let [weekdays, weekends] = [0, 1].map(|day_kind| self.traffic.profile.days(day_kind));
        if !(0..2).all(|day_kind| self.traffic.profile.is_mature(day_kind)) {
            let text = format!(
                "Its usual counts are known of {weekdays:.1} weekdays and {weekends:.1} days of weekends; until 3 and 2 are, only \
                 what is physically impossible is found."
            );
            reasons.push(reason("profile_days", 0.0, text));
        }
        reasons.sort_by(|a, b| a.contribution.total_cmp(&b.contribution));
        reasons
    }

    /// The measures that a fault rests on, and a sentence for people.
    pub(super) fn grounds(&self, fault: Fault, now: i64) -> (Evidence, String) {
        let silent_s = self.presence.newest.map(|newest| span_s(now - newest));
        let level = f64::from(self.traffic.level());
        let evidence = |hypothesis: Hypothesis| {
            vec![
                ("log_likelihood_ratio".into(), f64::from(self.traffic.evidence.of(hypothesis).score)),
                ("counted_of_expected".into(), level),
            ]
        };
        // Without a verdict on its counts it is physics, or the device itself, that speaks.
        let by_counts = self.traffic.hypothesis(fault);
        match (fault, silent_s) {
            (Fault::NoData, None) => (vec![], "It is configured, but has never been heard of.".into()),
            (Fault::NoData, Some(silent_s)) if self.presence.is_silent() => (
                vec![("silent_s".into(), silent_s)],
                format!("Silent for {silent_s:.0} s, while readings are due every {} s.", self.period_s()),
            ),
            (Fault::NoData, Some(_)) if self.presence.is_gappy() => {
                (vec![("gap_log_likelihood_ratio".into(), self.presence.gaps())], "It loses readings.".into())
            }
            (Fault::NoData, Some(_)) => (vec![], "It reports that its link or its setup is wrong.".into()),
            (Fault::StuckOn, _) => (vec![], "Occupied without end while the others count.".into()),
            (_, _) => match (fault, by_counts) {
                (Fault::StuckOff, None) => (vec![], "It reports that it sees nothing.".into()),
                (_, None) => (vec![], "It counts more than a lane can carry, or reports that its counts are erratic.".into()),
                (Fault::StuckOff, Some(found)) => (evidence(found), "Nothing is seen, although there is traffic.".into()),
                (Fault::Chatter, Some(found)) => (evidence(found), "Bursts of counts that no traffic makes.".into()),
                (Fault::Drift, Some(found)) => (evidence(found), format!("{} That came over more than a day.", self.suspicion(found))),
                (_, Some(found)) => (evidence(found), self.suspicion(found)),
            },
        }
    }

    /// What a hypothesis says of the counts.
    fn suspicion(&self, hypothesis: Hypothesis) -> String {
        match hypothesis {
            Hypothesis::Stuck => "Next to nothing is seen.".into(),
            Hypothesis::Blind => "Vehicles are missed in quiet hours.".into(),
            Hypothesis::Bursts => "Counts come in bursts.".into(),
            Hypothesis::Misses | Hypothesis::Repeats => {
                let level = 100.0 * self.traffic.level();
                format!("It counted {level:.0} % of what time of week and other detectors let expect of the last hours.")
            }
        }
    }

    fn period_s(&self) -> f64 {
        f64::from(self.presence.period_ms) / 1_000.0
    }
}

const fn indicator(hypothesis: Hypothesis) -> &'static str {
    match hypothesis {
        Hypothesis::Stuck => "zero_run",
        Hypothesis::Misses => "counts_below_expected",
        Hypothesis::Repeats => "counts_above_expected",
        Hypothesis::Blind => "quiet_counts_below_expected",
        Hypothesis::Bursts => "bursts",
    }
}

fn span_s(ms: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "spans of event time are far below 2^52 ms")]
    let seconds = ms as f64 / 1_000.0;
    seconds.max(0.0)
}
