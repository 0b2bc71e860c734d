//! Metrics are events of `tracing` with this target: each numeric field is one, named `<noun>_<past verb>`, with its unit last
//! where it is not a count. A field `code` tells its reasons apart; other texts only help to find the line.
//!
//! On Lambda `aws::telemetry` writes them in CloudWatch's embedded metric format; elsewhere they are lines of the log.

/// Target of the events that carry metrics.
pub const METRICS: &str = "metrics";
