//! Machines: everything that sends telemetry. Their life is followed sample by sample, and judged by the model of their kind.
//!
//! Samples count in the order of their times; one that is not newer than the newest is late or a replay and changes nothing.

use serde::{Deserialize, Serialize};
use shared::asset::{AssetHealth, Fault, HealthState, ModelVersion, Reason, RemainingUsefulLife};
use shared::ids::{AssetId, AssetKind};
use shared::prognosis::{Assessment, Life, Model, Prognosis};
use shared::reading::Telemetry;
use shared::units::Timestamp;

use crate::advisory::{Change, Evidence, Transition};
use crate::state::Folded;

/// So many samples in a row must say the same before an alert is raised or cleared: one odd sample is no reason to act.
const CONFIRMED_BY: u8 = 3;
/// A sample that is further ahead of the newest one than this waits for another from its time: a clock may have jumped. A
/// machine that stood for longer loses its first sample.
const AHEAD_MAX_MS: i64 = 30 * 86_400_000;

/// The state of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    asset_id: AssetId,
    kind: AssetKind,
    /// Event time of the newest sample, ms.
    as_of: Option<i64>,
    /// Event time of a sample so far ahead that it is not believed yet, ms.
    ahead: Option<i64>,
    life: Life,
    /// The model that the life was followed by.
    model: Option<ModelVersion>,
    verdict: Verdict,
    alerted: bool,
    /// Samples in a row that speak against what `alerted` says.
    against: u8,
    /// Samples in a row that name another kind.
    estranged: u8,
}

/// What the model says of the newest sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Verdict {
    state: HealthState,
    health_index: Option<u8>,
    remaining_useful_life: Option<RemainingUsefulLife>,
    reasons: Vec<Reason>,
}

impl Verdict {
    fn unknown(indicator: &str, text: String) -> Self {
        let reason = Reason { indicator: indicator.to_owned(), contribution: 0.0, text };
        Self { state: HealthState::Unknown, health_index: None, remaining_useful_life: None, reasons: vec![reason] }
    }
}

impl Machine {
    /// The machine that sends this, before its first sample.
    pub fn new(telemetry: &Telemetry) -> Self {
        Self {
            asset_id: telemetry.asset_id.clone(),
            kind: telemetry.asset_kind.clone(),
            as_of: None,
            ahead: None,
            life: Life::new(),
            model: None,
            verdict: Verdict::unknown("samples", "No sample has come yet.".into()),
            alerted: false,
            against: 0,
            estranged: 0,
        }
    }

    /// Folds one sample and judges it by the model of its kind.
    pub fn fold(&mut self, telemetry: &Telemetry, model: Option<&Model>, transitions: &mut Vec<Transition>) -> Folded {
        let at = telemetry.time.as_millis();
        if let Some(newest) = self.as_of {
            let replayed = at <= newest || self.ahead == Some(at);
            let jumped = at - newest > AHEAD_MAX_MS && self.ahead.is_none_or(|ahead| at < ahead);
            if jumped && !replayed {
                self.ahead = Some(at);
            }
            if replayed || jumped {
                return Folded::Replayed;
            }
        }
        self.as_of = Some(at);
        self.ahead = self.ahead.filter(|ahead| *ahead > at);
        if self.kind != telemetry.asset_kind {
            // One sample of another kind is odd; several are another machine under the same id.
            self.estranged += 1;
            if self.estranged < CONFIRMED_BY {
                return Folded::New;
            }
            if self.alerted {
                self.alerted = false;
                transitions.push(self.transition(telemetry.time, Change::Cleared));
            }
            let (as_of, ahead) = (self.as_of, self.ahead);
            *self = Self { as_of, ahead, ..Self::new(telemetry) };
        }
        self.estranged = 0;
        let version = model.map(Model::version);
        if self.model != version {
            // What another model made of the samples means nothing to this one.
            (self.model, self.life) = (version, Life::new());
        }
        let low = match model {
            None => {
                self.verdict = Verdict::unknown("model", format!("No model that can be used knows machines of kind {}.", self.kind));
                None
            }
            Some(model) => {
                let counts = self.life.fold(model, telemetry.cycle, &telemetry.metrics);
                self.judge(model).filter(|_| counts)
            }
        };
        self.alert(telemetry.time, low, transitions);
        Folded::New
    }

    /// Takes over the verdict of the model; answers whether an alert should be open, if that can be said.
    fn judge(&mut self, model: &Model) -> Option<bool> {
        match model.assess(&self.life) {
            Assessment::Unknown { indicator, text } => {
                self.verdict = Verdict::unknown(&indicator, text);
                None
            }
            Assessment::Known(Prognosis { state, health_index, remaining_useful_life, reasons }) => {
                let thresholds = model.alert();
                let left = remaining_useful_life.p50;
                let remaining_useful_life = Some(remaining_useful_life);
                self.verdict = Verdict { state, health_index: Some(health_index), remaining_useful_life, reasons };
                let limit = if self.alerted { thresholds.clear } else { thresholds.raise };
                Some(left <= limit)
            }
        }
    }

    fn alert(&mut self, at: Timestamp, low: Option<bool>, transitions: &mut Vec<Transition>) {
        let Some(low) = low else { return };
        if low == self.alerted {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against < CONFIRMED_BY {
            return;
        }
        (self.against, self.alerted) = (0, !self.alerted);
        transitions.push(self.transition(at, if self.alerted { Change::Raised } else { Change::Cleared }));
    }

    fn transition(&self, at: Timestamp, change: Change) -> Transition {
        let (evidence, text) = self.evidence();
        let (asset_id, kind) = (self.asset_id.clone(), self.kind.clone());
        Transition { asset_id, kind, fault: Fault::EndOfLife, at, change, evidence, text }
    }

    fn evidence(&self) -> (Evidence, String) {
        let Some(life) = &self.verdict.remaining_useful_life else { return (Evidence::new(), String::new()) };
        let RemainingUsefulLife { unit, p05, p50, p95, .. } = life;
        let evidence =
            [("p05", *p05), ("p50", *p50), ("p95", *p95)].map(|(name, value)| (format!("remaining_{unit}_{name}").into(), value));
        let worst = self.verdict.reasons.iter().find(|reason| reason.contribution < 0.0);
        let why = worst.map_or(String::new(), |reason| format!(" {}", reason.text));
        (evidence.into(), format!("About {p50:.0} {unit} are left ({p05:.0} to {p95:.0}).{why}"))
    }

    /// Event time of the newest sample.
    pub fn as_of(&self) -> Timestamp {
        Timestamp::from_millis(self.as_of.unwrap_or(i64::MIN))
    }

    /// Its condition as everybody may read it.
    pub fn health(&self) -> AssetHealth {
        let Verdict { state, health_index, remaining_useful_life, reasons } = self.verdict.clone();
        AssetHealth {
            asset_id: self.asset_id.clone(),
            kind: self.kind.clone(),
            as_of: self.as_of(),
            state,
            health_index,
            remaining_useful_life,
            reasons,
            fault: self.alerted.then_some(Fault::EndOfLife),
            model: self.model.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::prognosis::shipped;

    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const LIFE: u64 = 140;

    fn turbofan() -> Model {
        Model::from_bytes(shipped(&AssetKind::try_from("turbofan").unwrap()).unwrap()).unwrap()
    }

    /// The sample of a cycle of a turbofan at sea level that lasts [`LIFE`] cycles.
    fn sample(n: i64, cycle: u64) -> Telemetry {
        let wear = (3.5 * f64::from(u32::try_from(cycle).unwrap()) / f64::from(u32::try_from(LIFE).unwrap())).exp_m1() / 3.5_f64.exp_m1();
        let metrics = [
            ("op1", 0.0, 0.0),
            ("op2", 0.0, 0.0),
            ("op3", 100.0, 0.0),
            ("s2", 642.2, 1.4),
            ("s3", 1585.0, 17.0),
            ("s4", 1400.0, 28.0),
            ("s7", 554.3, -2.9),
            ("s8", 2388.05, 0.15),
            ("s9", 9052.0, 10.0),
            ("s11", 47.3, 0.95),
            ("s12", 522.0, -2.4),
            ("s13", 2388.05, 0.15),
            ("s14", 8135.0, 8.0),
            ("s15", 8.41, 0.13),
            ("s17", 391.5, 5.0),
            ("s20", 38.98, -0.63),
            ("s21", 23.38, -0.36),
        ];
        Telemetry {
            asset_id: AssetId::try_from("engine-1").unwrap(),
            asset_kind: AssetKind::try_from("turbofan").unwrap(),
            time: Timestamp::from_millis(n * DAY_MS),
            cycle: Some(cycle),
            metrics: metrics.map(|(name, new, change)| (name.to_owned(), new + wear.min(1.2) * change)).into(),
        }
    }

    /// A life, and the beginning of the next after an overhaul.
    fn samples() -> Vec<Telemetry> {
        (1..=LIFE - 5).chain(1..=20).zip(1..).map(|(cycle, n)| sample(n, cycle)).collect()
    }

    fn follow(model: &Model, samples: &[Telemetry]) -> (Machine, Vec<Transition>) {
        let (mut machine, mut transitions) = (Machine::new(&samples[0]), Vec::new());
        for sample in samples {
            machine.fold(sample, Some(model), &mut transitions);
        }
        (machine, transitions)
    }

    #[test]
    fn an_alert_is_raised_once_near_the_end_and_cleared_by_an_overhaul() {
        let (model, samples) = (turbofan(), samples());
        let (machine, transitions) = follow(&model, &samples);
        let changes: Vec<_> = transitions.iter().map(|transition| (transition.fault, transition.change)).collect();
        assert_eq!(changes, [(Fault::EndOfLife, Change::Raised), (Fault::EndOfLife, Change::Cleared)]);
        let raised = transitions[0].at.as_millis() / DAY_MS;
        assert!((i64::try_from(LIFE).unwrap() - 60..i64::try_from(LIFE).unwrap() - 10).contains(&raised), "raised at cycle {raised}");
        assert!(transitions[0].text.contains("cycles are left"), "{}", transitions[0].text);
        assert_eq!((machine.health().state, machine.health().fault), (HealthState::Normal, None));
    }

    #[test]
    fn one_odd_cycle_near_the_end_makes_no_new_machine() {
        let (model, samples) = (turbofan(), samples());
        let near_end = 128;
        let (machine, raised) = follow(&model, &samples[..near_end]);
        assert_eq!(raised.len(), 1);
        for cycle in [0, 90, 128, 100_000] {
            let mut odd = samples[..near_end].to_vec();
            odd[120].cycle = Some(cycle);
            let (other, transitions) = follow(&model, &odd);
            let left = |machine: &Machine| machine.health().remaining_useful_life.unwrap().p50;
            assert!((left(&machine) - left(&other)).abs() < 8.0, "cycle {cycle}: {} became {}", left(&machine), left(&other));
            assert_eq!(transitions.len(), 1, "cycle {cycle}");
        }
    }

    #[test]
    fn the_state_of_a_machine_takes_less_than_two_kilobytes() {
        let (machine, _) = follow(&turbofan(), &samples()[..100]);
        let bytes = postcard::to_stdvec(&machine).unwrap();
        assert!(bytes.len() <= 2_048, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes::<Machine>(&bytes).unwrap(), machine);
    }

    #[test]
    fn a_clock_that_jumps_far_ahead_once_makes_nothing_late() {
        let (model, samples) = (turbofan(), samples());
        let mut jumped = samples.clone();
        jumped.insert(50, Telemetry { time: Timestamp::from_millis(i64::MAX), ..samples[50].clone() });
        let ((straight, alerts), (odd, same)) = (follow(&model, &samples), follow(&model, &jumped));
        assert_eq!((straight.health(), alerts), (odd.health(), same));
    }

    #[test]
    fn a_machine_that_stood_for_years_is_believed_at_its_second_sample() {
        let model = turbofan();
        let later = |n| sample(n, u64::try_from(n - 1_000).unwrap());
        let (machine, _) = follow(&model, &[sample(1, 1), later(1_002), later(1_003)]);
        assert_eq!(machine.as_of(), later(1_003).time);
    }

    #[test]
    fn another_kind_under_the_same_id_is_another_machine() {
        let model = turbofan();
        let (mut machine, mut transitions) = follow(&model, &samples()[..50]);
        let pump = |n| Telemetry { asset_kind: AssetKind::try_from("pump").unwrap(), ..sample(n, 51) };
        let before = machine.health();
        machine.fold(&pump(60), None, &mut transitions);
        assert_eq!((machine.health().kind, machine.health().state), (before.kind, before.state), "one sample is odd");
        machine.fold(&pump(61), None, &mut transitions);
        machine.fold(&pump(62), None, &mut transitions);
        let health = machine.health();
        assert_eq!((health.kind.as_str(), health.state, health.model), ("pump", HealthState::Unknown, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn samples_that_come_again_or_too_late_change_nothing(again in prop::collection::vec((0..155_usize, 0..155_usize), 1..40)) {
            let (model, samples) = (turbofan(), samples());
            let (straight, alerts) = follow(&model, &samples);
            let mut disturbed = Vec::new();
            for (n, sample) in samples.iter().enumerate() {
                disturbed.push(sample.clone());
                let old = again.iter().filter(|(after, _)| *after == n).map(|(_, old)| samples[(*old).min(n)].clone());
                disturbed.extend(old);
            }
            let (machine, same) = follow(&model, &disturbed);
            assert_eq!((straight, alerts), (machine, same));
        }
    }
}
