//! The models as a service: what the stream would say of the same samples. Nothing is kept.

use serde::Serialize;
use serde_json::Value;
use shared::asset::{HealthState, ModelVersion, Reason, RemainingUsefulLife};
use shared::fields::{At, Fault, Faults, Fields, array, id};
use shared::ids::AssetKind;
use shared::intersection::InvalidDocument;
use shared::ports::{ModelSource, PortError};
use shared::prognosis::{Assessment, Life, Model, Models, Prognosis};
use shared::wire::{Sample, read_sample};

/// Most assets of one request.
const BATCH_MAX: usize = 100;
/// Most samples of one asset.
const SAMPLES_MAX: usize = 10_000;

/// One asset whose future is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// What it is.
    pub kind: AssetKind,
    /// What it measured, in the order of time.
    pub samples: Vec<Sample>,
}

/// The body of `POST /v1/predictions`.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// One asset.
    Single(Unit),
    /// Many assets; what is wrong with one costs this one alone.
    Batch(Vec<Result<Unit, Vec<Fault>>>),
}

impl Request {
    /// Reads the body. Unknown fields are ignored, as in readings.
    ///
    /// # Errors
    /// [`InvalidDocument`] if there is nothing to predict.
    pub fn from_json(body: &str) -> Result<Self, InvalidDocument> {
        let document: Value = serde_json::from_str(body)?;
        let (at, mut faults) = (At::Root, Faults::default());
        let batch = Fields::of(&document, &at, &mut faults).and_then(|mut fields| {
            fields.raw("batch")?;
            fields.required("batch", &at, &mut faults, array(1, BATCH_MAX))
        });
        match batch {
            Some(units) => Ok(Self::Batch(units.iter().map(read_unit).collect())),
            None if faults.is_empty() => read_unit(&document).map(Self::Single).map_err(InvalidDocument::Faults),
            None => Err(InvalidDocument::Faults(faults.into_vec())),
        }
    }
}

fn read_unit(value: &Value) -> Result<Unit, Vec<Fault>> {
    let (at, mut faults) = (At::Root, Faults::default());
    let unit = Fields::of(value, &at, &mut faults).and_then(|mut fields| {
        let kind = fields.required("asset_kind", &at, &mut faults, id);
        let place = at.field("samples");
        let samples = fields.required("samples", &at, &mut faults, array(1, SAMPLES_MAX))?;
        let mut read = |(number, value)| {
            let place = place.index(number);
            Fields::of(value, &place, &mut faults).map(|mut fields| read_sample(&mut fields, &place, &mut faults))
        };
        let samples = samples.iter().enumerate().filter_map(&mut read).collect();
        Some(Unit { kind: kind?, samples })
    });
    match unit {
        Some(unit) if faults.is_empty() => Ok(unit),
        _ => Err(faults.into_vec()),
    }
}

/// What a model says of an asset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The verdict.
    pub state: HealthState,
    /// 100 as new, 0 failed; none if unknown.
    pub health_index: Option<u8>,
    /// How long it will last; none if unknown.
    pub remaining_useful_life: Option<RemainingUsefulLife>,
    /// What it rests on, largest contribution first; or why it is unknown.
    pub reasons: Vec<Reason>,
    /// Who judged.
    pub model: ModelVersion,
}

/// Why there is no prediction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No model knows assets of this kind.
    #[error("no model knows assets of kind {0}")]
    UnknownKind(AssetKind),
    /// The source of models failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Predicts the future of an asset by the model of its kind.
///
/// # Errors
/// [`Refusal`].
pub async fn predict<M: ModelSource>(models: &Models<M>, unit: &Unit) -> Result<Prediction, Refusal> {
    let model = models.of(&unit.kind).await?.ok_or_else(|| Refusal::UnknownKind(unit.kind.clone()))?;
    Ok(judge(&model, &unit.samples))
}

fn judge(model: &Model, samples: &[Sample]) -> Prediction {
    let mut life = Life::new();
    for Sample { cycle, metrics } in samples {
        life.fold(model, *cycle, metrics);
    }
    match model.assess(&life) {
        Assessment::Known(Prognosis { state, health_index, remaining_useful_life, reasons }) => Prediction {
            state,
            health_index: Some(health_index),
            remaining_useful_life: Some(remaining_useful_life),
            reasons,
            model: model.version(),
        },
        Assessment::Unknown { indicator, text } => Prediction {
            state: HealthState::Unknown,
            health_index: None,
            remaining_useful_life: None,
            reasons: vec![Reason { indicator, contribution: 0.0, text }],
            model: model.version(),
        },
    }
}
