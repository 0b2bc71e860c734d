//! From sensor readings to condition, remaining life and alerts, in the blocks of ISO 13374.
//!
//! `detector` knows the detectors of an intersection, `machine` everything that sends telemetry; both turn readings into
//! indicators, states and health. `advisory` turns their faults into alerts, `workflow` reads and writes. Without features
//! all of it is pure.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic"))]

pub mod advisory;
