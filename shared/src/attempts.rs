//! What the workflows behind the stream share: they read once, decide, and write once with a condition; and again, if somebody
//! else was faster.

use crate::ports::{PortError, WriteError};

/// How often a group of readings is worked on again when another writer was faster.
pub const ATTEMPTS: usize = 3;

/// Why the records of a key did not take effect. All of them may succeed when they come again.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// A store failed.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Somebody else kept writing the same key.
    #[error("another writer was faster {ATTEMPTS} times")]
    Contended,
    /// A state could not be encoded.
    #[error("the state cannot be stored: {0}")]
    Encoding(#[from] postcard::Error),
}

/// Why one attempt failed.
#[derive(Debug)]
pub enum AttemptError {
    /// Somebody else was faster: load again and decide again.
    Conflict,
    /// The records have to come again.
    Other(WorkflowError),
}

impl From<WriteError> for AttemptError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict => Self::Conflict,
            WriteError::Port(error) => Self::Other(error.into()),
        }
    }
}

impl<E: Into<WorkflowError>> From<E> for AttemptError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}
