//! What two or more Greenwave packages need: units, ids, readings, intersections, assets,
//! plans, alerts and the ports to the outside.
//!
//! Without features this crate is pure: no runtime, no SDK, no HTTP. `batch` adds the Kinesis batch processor, `http` the
//! problem responses, `aws` the adapters for DynamoDB, EventBridge, Kinesis and S3.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic"))]

pub mod alert;
pub mod asset;
pub mod attempts;
pub mod fields;
pub mod ids;
pub mod intersection;
pub mod item;
pub mod memory;
pub mod metrics;
pub mod plan;
pub mod ports;
pub mod quarantine;
pub mod reading;
pub mod units;
pub mod wire;

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "batch")]
pub mod batch;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "prognosis")]
pub mod prognosis;
