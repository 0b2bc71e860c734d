//! Takes sensor readings over HTTP, checks each one and puts the valid ones on the stream, with a verdict for each.
//!
//! The way of a request: [`body`] reads its bytes, [`split`] cuts them into readings, [`verdict`] checks each reading,
//! [`records`] makes stream records, [`workflow`] appends them. Without the feature `http` only the first step is missing.

#[cfg(feature = "http")]
mod body;
#[cfg(feature = "http")]
mod route;

pub mod records;
pub mod split;
pub mod verdict;
pub mod workflow;

pub use verdict::Config;
pub use workflow::Sleep;

#[cfg(feature = "http")]
pub use route::router;
