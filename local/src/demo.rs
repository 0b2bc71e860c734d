//! `greenwave demo`: a small made-up city that Greenwave runs through its public API alone.
//!
//! `city` is the street grid and its configuration, `traffic` moves the vehicles, `cabinet` owns safety at each signal, `turbine`
//! wears out, `shop` lets detectors break and repairs what the alerts tell, `run` is the loop. The same vehicles also drive through the same streets under the time-of-day plans, as the yardstick.

mod api;
pub(crate) mod cabinet;
pub(crate) mod city;
mod run;
mod shop;
pub(crate) mod traffic;
pub(crate) mod turbine;

pub use api::DemoError;
pub use run::{Options, Summary, run};
