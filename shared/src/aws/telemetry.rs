//! Logs as JSON lines: `timestamp`, `level`, `fields` and the span of the invocation with its request id; metrics beside them.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::SystemClock;
use super::config::Environment;
use super::metrics::EmbeddedMetrics;
use crate::metrics::METRICS;

/// Sends logs and metrics to the standard output from here on; the first call counts.
///
/// The level is what Lambda passes in `AWS_LAMBDA_LOG_LEVEL` (`LoggingConfig.ApplicationLogLevel` in template.yaml).
pub fn start<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) {
    let level = environment.text_or("AWS_LAMBDA_LOG_LEVEL", "INFO");
    let layer = tracing_subscriber::fmt::layer().json().with_current_span(true).with_span_list(false).with_filter(filter(&level));
    let metrics = EmbeddedMetrics::new(environment.text_or("AWS_LAMBDA_FUNCTION_NAME", "greenwave"), SystemClock, std::io::stdout);
    // A second start would be another subscriber for the same lines.
    let first = tracing_subscriber::registry().with(layer).with(metrics).try_init();
    if first.is_ok() {
        tracing::info!(target: METRICS, cold_starts = 1_u8, "a new process");
    }
}

/// Lets through what is at least as important as `level`, metrics apart; the SDK and its HTTP client speak from a warning on alone, because
/// their finer lines carry bodies.
fn filter(level: &str) -> Targets {
    let level = match level.to_ascii_uppercase().as_str() {
        "TRACE" => LevelFilter::TRACE,
        "DEBUG" => LevelFilter::DEBUG,
        "WARN" => LevelFilter::WARN,
        "ERROR" | "FATAL" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let foreign = level.min(LevelFilter::WARN);
    let targets = Targets::new().with_target(METRICS, LevelFilter::OFF).with_default(level);
    targets.with_targets(["aws_", "hyper", "h2", "rustls"].map(|target| (target, foreign)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn the_sdk_is_quiet_where_the_functions_are_not() {
        let debug = filter("DEBUG");
        assert!(debug.would_enable("signal_adjustment", &Level::DEBUG));
        assert!(!debug.would_enable("aws_smithy_runtime::client", &Level::INFO));
        assert!(debug.would_enable("aws_smithy_runtime::client", &Level::WARN));
        assert!(!filter("error").would_enable("aws_smithy_runtime::client", &Level::WARN));
        assert!(filter("").would_enable("sensor_ingestion", &Level::INFO));
        assert!(!debug.would_enable(METRICS, &Level::INFO), "metrics are lines of their own");
    }
}
