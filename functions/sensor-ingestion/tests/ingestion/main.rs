//! Ingestion as a sensor and the stream see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

mod answers;
mod double;
mod order;
