//! Settings of an event source mapping, under the names that `AWS::Lambda::EventSourceMapping` gives them.

use serde::{Deserialize, Deserializer};

/// How a mapping hands records to its function. The default is that of AWS: retry for ever, one lane, no window.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Settings {
    /// Most records per invocation, 1 to 10 000.
    pub batch_size: usize,
    /// How long a smaller batch waits for more records, 0 to 300 s.
    pub maximum_batching_window_in_seconds: u32,
    /// Lanes per shard that run at once, 1 to 10; a key stays in its lane.
    pub parallelization_factor: usize,
    /// Whether `batchItemFailures` counts (`FunctionResponseTypes`); without it every response is a success.
    #[serde(rename = "FunctionResponseTypes", deserialize_with = "reports_failures")]
    pub report_batch_item_failures: bool,
    /// Whether a failed batch is halved until the record that fails stands alone.
    pub bisect_batch_on_function_error: bool,
    /// Retries of one batch, -1 (for ever) to 10 000.
    pub maximum_retry_attempts: i32,
    /// Age past which a record is given up, -1 (never) or 60 to 604 800 s.
    pub maximum_record_age_in_seconds: i32,
    /// Wait before the first retry in milliseconds; doubles with each retry. Lambda does not document its own.
    #[serde(skip)]
    pub backoff_ms: u32,
    /// Longest wait between two retries in milliseconds.
    #[serde(skip)]
    pub backoff_ms_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_size: 100,
            maximum_batching_window_in_seconds: 0,
            parallelization_factor: 1,
            report_batch_item_failures: false,
            bisect_batch_on_function_error: false,
            maximum_retry_attempts: -1,
            maximum_record_age_in_seconds: -1,
            backoff_ms: 100,
            backoff_ms_max: 10_000,
        }
    }
}

fn reports_failures<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Vec::<String>::deserialize(deserializer)?.iter().any(|name| name == "ReportBatchItemFailures"))
}

/// A setting is outside the range that AWS accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} must be {1}")]
pub struct InvalidSettings(pub &'static str, pub &'static str);

impl Settings {
    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        let age = self.maximum_record_age_in_seconds;
        let rules = [
            ((1..=10_000).contains(&self.batch_size), "BatchSize", "1 to 10000"),
            (self.maximum_batching_window_in_seconds <= 300, "MaximumBatchingWindowInSeconds", "0 to 300"),
            ((1..=10).contains(&self.parallelization_factor), "ParallelizationFactor", "1 to 10"),
            ((-1..=10_000).contains(&self.maximum_retry_attempts), "MaximumRetryAttempts", "-1 to 10000"),
            (age == -1 || (60..=604_800).contains(&age), "MaximumRecordAgeInSeconds", "-1 or 60 to 604800"),
        ];
        rules.iter().find(|(holds, ..)| !holds).map_or(Ok(()), |&(_, name, range)| Err(InvalidSettings(name, range)))
    }

    pub(super) fn window_ms(&self) -> i64 {
        i64::from(self.maximum_batching_window_in_seconds) * 1000
    }

    /// Retries of one batch; `None` is for ever.
    pub(super) fn retries(&self) -> Option<u32> {
        u32::try_from(self.maximum_retry_attempts).ok()
    }

    /// Greatest age in milliseconds; `None` is any.
    pub(super) fn age_ms(&self) -> Option<i64> {
        (self.maximum_record_age_in_seconds >= 0).then(|| i64::from(self.maximum_record_age_in_seconds) * 1000)
    }

    /// Wait before retry number `attempt` (from 1), doubling up to the cap.
    pub(super) fn backoff(&self, attempt: u32) -> i64 {
        let doubled = i64::from(self.backoff_ms) << attempt.saturating_sub(1).min(20);
        doubled.min(i64::from(self.backoff_ms_max))
    }
}
