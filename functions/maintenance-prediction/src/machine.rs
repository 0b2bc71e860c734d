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
const AHEAD_MAX_MS: i64 = 366 * 86_400_000;

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
        let version = model.map(Model::version);
        if self.kind != telemetry.asset_kind || self.model != version {
            // What another model made of the samples means nothing to this one.
            (self.kind, self.model, self.life) = (telemetry.asset_kind.clone(), version, Life::new());
        }
        let low = match model {
            None => {
                self.verdict = Verdict::unknown("model", format!("No model knows machines of kind {}.", self.kind));
                None
            }
            Some(model) => {
                self.life.fold(model, telemetry.cycle, &telemetry.metrics);
                self.judge(model)
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
        if low.is_none_or(|low| low == self.alerted) {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against < CONFIRMED_BY {
            return;
        }
        (self.against, self.alerted) = (0, !self.alerted);
        let change = if self.alerted { Change::Raised } else { Change::Cleared };
        let (evidence, text) = self.evidence();
        let (asset_id, kind) = (self.asset_id.clone(), self.kind.clone());
        transitions.push(Transition { asset_id, kind, fault: Fault::EndOfLife, at, change, evidence, text });
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
