//! Configuration and read side: intersections, their plans and decisions, and the description of the API itself.
//!
//! [`configuration`] decides which writes happen, [`plans`] joins plans with what is configured, [`precondition`] and
//! [`query`] read what a client asks for. Without the feature `http` only the routes are missing.

#[cfg(feature = "http")]
mod route;

pub mod configuration;
pub mod plans;
pub mod precondition;
pub mod query;

#[cfg(feature = "http")]
pub use route::{Store, router};
