//! The order of the work: check, encode, append.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use shared::metrics::METRICS;
use shared::ports::{Clock, ReadingStream};

use crate::append::{RETRIES, Sleep, append};
use crate::records::encode;
use crate::verdict::{Config, Rejection, check};

/// What became of the readings of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many are on the stream.
    pub accepted: usize,
    /// The others, by their place in the request.
    pub rejected: Vec<Rejection>,
    /// Whether the stream refused some: sending those again may help.
    pub unavailable: bool,
}

/// Takes readings: everything it needs from outside.
pub struct Ingestion<S, C, W> {
    stream: S,
    clock: C,
    sleep: W,
    config: Config,
}

impl<S: ReadingStream, C: Clock, W: Sleep> Ingestion<S, C, W> {
    /// An ingestion that appends to the stream.
    pub const fn new(stream: S, clock: C, sleep: W, config: Config) -> Self {
        Self { stream, clock, sleep, config }
    }

    /// Checks the readings and puts the valid ones on the stream, with the name of the request that brought them. With a key, only
    /// readings of that intersection or machine are valid.
    pub async fn take(&self, readings: &[&RawValue], key: Option<&str>, request_id: Option<&str>) -> Outcome {
        let now = self.clock.now();
        let (valid, mut rejected) = check(readings, key, now, self.config);
        let refused = append(&self.stream, &self.sleep, RETRIES, encode(valid, now, request_id)).await;
        let unavailable = !refused.is_empty();
        rejected.extend(refused.into_iter().map(Rejection::unavailable));
        rejected.sort_unstable_by_key(|rejection| rejection.index);
        let accepted = readings.len() - rejected.len();
        tracing::info!(target: METRICS, readings_accepted = accepted, request_id, "readings were taken in");
        let mut codes = BTreeMap::new();
        for rejection in &rejected {
            *codes.entry(rejection.code).or_insert(0_u64) += 1;
        }
        for (code, readings_rejected) in codes {
            tracing::info!(target: METRICS, readings_rejected, code, request_id, "readings were rejected");
        }
        Outcome { accepted, rejected, unavailable }
    }
}
