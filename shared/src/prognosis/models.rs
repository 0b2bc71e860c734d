//! Where models come from: those of the operator first, then those that ship with Greenwave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Model;
use crate::ids::AssetKind;
use crate::ports::{Clock, ModelSource, PortError};
use crate::units::Timestamp;

/// How long a model is used before its source is asked again, ms.
const FRESH_MS: i64 = 300_000;
/// Kinds remembered; they come from outside, and without a bound they would fill the memory.
const KINDS_MAX: usize = 256;

/// The file of the model that ships for this kind.
pub fn shipped(kind: &AssetKind) -> Option<&'static [u8]> {
    match kind.as_str() {
        "turbofan" => Some(include_bytes!("../../models/turbofan.model")),
        _ => None,
    }
}

/// Models by kind, loaded when they are needed and looked for again after five minutes.
pub struct Models<M> {
    source: M,
    clock: Box<dyn Clock>,
    known: Mutex<HashMap<AssetKind, Known>>,
}

#[derive(Clone)]
struct Known {
    asked_at: Timestamp,
    model: Option<Arc<Model>>,
}

impl<M: ModelSource> Models<M> {
    /// Models from this source, which go before the shipped ones.
    pub fn new(source: M, clock: impl Clock + 'static) -> Self {
        Self { source, clock: Box::new(clock), known: Mutex::default() }
    }

    /// The model of this kind, if there is one. What is known serves on while the source is out of reach or has a file
    /// that cannot be used.
    ///
    /// # Errors
    /// [`PortError`] of the source, or [`PortError::Unusable`] for what [`Model::from_bytes`] refuses, if nothing is known.
    pub async fn of(&self, kind: &AssetKind) -> Result<Option<Arc<Model>>, PortError> {
        let now = self.clock.now();
        let known = self.lock().get(kind).cloned();
        if let Some(Known { asked_at, model }) = &known
            && (0..FRESH_MS).contains(&(now.as_millis() - asked_at.as_millis()))
        {
            return Ok(model.clone());
        }
        let known = known.and_then(|known| known.model);
        let model = match self.load(kind).await {
            Ok(found) => found,
            Err(error) => Some(known.ok_or(error)?),
        };
        let mut all = self.lock();
        if all.len() >= KINDS_MAX {
            all.clear();
        }
        all.insert(kind.clone(), Known { asked_at: now, model: model.clone() });
        Ok(model)
    }

    async fn load(&self, kind: &AssetKind) -> Result<Option<Arc<Model>>, PortError> {
        let brought = self.source.model(kind).await?;
        let Some(bytes) = brought.as_deref().or_else(|| shipped(kind)) else { return Ok(None) };
        let model = Model::from_bytes(bytes).map_err(|error| PortError::Unusable("models", format!("the model of {kind} {error}")))?;
        if model.version().name != kind.as_str() {
            return Err(PortError::Unusable("models", format!("the model of {kind} is one of {}", model.version().name)));
        }
        Ok(Some(Arc::new(model)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AssetKind, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
