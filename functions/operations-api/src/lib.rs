//! Configuration and read side: intersections, their plans and decisions, assets, their health and alerts, and the
//! description of the API itself.
//!
//! [`configuration`] and [`registration`] decide which writes happen, [`plans`] joins plans with what is configured,
//! [`assets`] everything that is known of assets, [`alerts`] alerts with who knows of them, [`predictions`] asks the models;
//! [`precondition`] and [`query`] read what a client asks for. Without the feature `http` only the routes are missing.

#[cfg(feature = "http")]
mod route;

pub mod alerts;
pub mod assets;
pub mod configuration;
pub mod plans;
pub mod precondition;
pub mod predictions;
pub mod query;
pub mod registration;

#[cfg(feature = "http")]
pub use route::{Store, router};
