//! The whole city in one process: an embedded durable store and stream, a faithful event source mapping, and a bench for
//! faults.
//!
//! ```text
//! POST readings -> store (redb, group commit) -> stream -> poller + mapping -> function -> store -> GET plans
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic"))]

pub mod backtest;
pub mod clock;
pub mod cost;
pub mod demo;
pub mod events;
pub mod faults;
pub mod front;
pub mod mapping;
pub mod models;
pub mod poller;
pub mod quarantine;
pub mod replay;
pub mod runs;
pub mod serve;
pub mod store;
pub mod stream;
pub mod train;
