//! The routes as a client sees them, over the memory twin; every answer is checked against `openapi.yaml`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

mod alerts;
mod assets;
mod client;
mod configuration;
mod decisions;
mod description;
mod failures;
mod faults;
mod plans;
mod predictions;
