//! Which registrations of assets happen.

use shared::asset::Asset;
use shared::ports::{AssetStore, PortError, WriteError};

use crate::precondition::Precondition;

/// How often a write that somebody else overtook is decided again.
const ATTEMPTS: usize = 3;

/// Why an asset was not registered. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The precondition does not hold.
    #[error("the stored content is not the expected one")]
    Failed,
    /// The store failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Registers the asset if the precondition holds; without one the newest word counts. Answers whether it is new.
///
/// # Errors
/// [`Refusal`].
pub async fn put(store: &impl AssetStore, asset: &Asset, precondition: &Precondition) -> Result<bool, Refusal> {
    let etag = asset.etag();
    for _ in 0..ATTEMPTS {
        let stored = store.asset(&asset.id).await?.map(|stored| stored.etag());
        if !precondition.holds(stored) {
            return Err(Refusal::Failed);
        }
        if stored == Some(etag) {
            return Ok(false);
        }
        match store.put_asset(stored.as_ref(), asset).await {
            Ok(()) => return Ok(stored.is_none()),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Port(error)) => return Err(error.into()),
        }
    }
    Err(PortError::Unavailable("asset store", format!("others wrote {} at the same time", asset.id)).into())
}
