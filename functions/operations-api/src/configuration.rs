//! Which writes of the configuration happen: nobody overwrites what they have not seen.

use shared::ids::IntersectionId;
use shared::intersection::{ETag, Intersection};
use shared::ports::{IntersectionStore, PortError, WriteError};

use crate::precondition::Precondition;

/// How often a write that somebody else overtook is decided again.
const ATTEMPTS: usize = 3;

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing was stored before.
    Created,
    /// Other content was stored before.
    Replaced,
    /// The same content is stored already.
    Unchanged,
}

/// Why a write did not happen. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is stored under the id.
    #[error("the intersection is not configured")]
    Missing,
    /// The precondition does not hold.
    #[error("the stored content is not the expected one")]
    Failed,
    /// Other content is stored, and the request does not say that it knows it.
    #[error("the content {0} is stored and must be named as the expected one")]
    Required(ETag),
    /// The store failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Stores the intersection if the precondition holds.
///
/// # Errors
/// [`Refusal::Failed`], [`Refusal::Required`] or [`Refusal::Port`].
pub async fn put(store: &impl IntersectionStore, intersection: &Intersection, precondition: &Precondition) -> Result<Written, Refusal> {
    for _ in 0..ATTEMPTS {
        let stored = store.tag(intersection.id()).await?;
        let written = decide_put(stored, intersection.etag(), precondition)?;
        if written == Written::Unchanged {
            return Ok(written);
        }
        match store.put(stored.as_ref(), intersection).await {
            Ok(()) => return Ok(written),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Port(error)) => return Err(error.into()),
        }
    }
    Err(Refusal::Failed)
}

fn decide_put(stored: Option<ETag>, new: ETag, precondition: &Precondition) -> Result<Written, Refusal> {
    match stored {
        _ if !precondition.holds(stored) => Err(Refusal::Failed),
        None => Ok(Written::Created),
        Some(stored) if stored == new => Ok(Written::Unchanged),
        Some(_) if precondition.if_match.is_some() => Ok(Written::Replaced),
        Some(stored) => Err(Refusal::Required(stored)),
    }
}

/// Removes the intersection if the precondition holds.
///
/// # Errors
/// [`Refusal::Missing`], [`Refusal::Failed`] or [`Refusal::Port`].
pub async fn delete(store: &impl IntersectionStore, id: &IntersectionId, precondition: &Precondition) -> Result<(), Refusal> {
    for _ in 0..ATTEMPTS {
        let stored = store.tag(id).await?;
        if !precondition.holds(stored) {
            return Err(Refusal::Failed);
        }
        match store.delete(id, &stored.ok_or(Refusal::Missing)?).await {
            Ok(()) => return Ok(()),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Port(error)) => return Err(error.into()),
        }
    }
    Err(Refusal::Failed)
}
