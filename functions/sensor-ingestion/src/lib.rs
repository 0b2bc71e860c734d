//! Takes sensor readings over HTTP, checks each one and puts the valid ones on the stream, with a verdict for each.
//!
//! The way of a request: [`split`] cuts its body into readings, [`verdict`] checks each reading, [`records`] makes stream
//! records, [`append`] puts them on the stream; [`workflow`] has the order. Without the feature `http` only the route is
//! missing.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic"))]

#[cfg(feature = "http")]
mod route;

pub mod append;
pub mod records;
pub mod split;
pub mod verdict;
pub mod workflow;

pub use append::Sleep;
pub use verdict::Config;

#[cfg(feature = "http")]
pub use route::router;
