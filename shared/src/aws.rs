//! Adapters: the ports over Kinesis, DynamoDB, EventBridge and S3, and what a Lambda composition root needs besides.
//!
//! A `main.rs` loads one [`SdkConfig`] and makes its adapters from it. Tests make the same adapters from a configuration that
//! points to an emulator.

mod clock;
pub mod config;
mod dynamodb;
mod eventbridge;
mod kinesis;
mod metrics;
mod s3;
pub mod telemetry;

use std::error::Error;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::ports::PortError;

pub use aws_config::SdkConfig;
pub use clock::SystemClock;
pub use dynamodb::{DynamoDb, tables};
pub use eventbridge::EventBridge;
pub use kinesis::KinesisStream;
pub use s3::{S3Models, S3Quarantine};

/// The configuration that all clients share: region, credentials and endpoint from the environment, bounded time and tries.
pub async fn sdk_config() -> SdkConfig {
    // A healthy call inside one region takes milliseconds: a connection not made in 1 s or an answer not there in 3 s is lost,
    // and another try is worth more than waiting on. 8 s hold two lost tries with their pauses and still end before the
    // shortest function timeout of template.yaml (10 s), so that the function answers instead of being killed.
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(8))
        .build();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .timeout_config(timeouts)
        .load()
        .await
}

/// What a failed call means for its caller: whatever may succeed later is unavailable, the rest unusable.
fn port_error<E, R>(port: &'static str, error: &SdkError<E, R>) -> PortError
where
    E: ProvideErrorMetadata + Error + 'static,
    R: HttpStatus + std::fmt::Debug,
{
    let (passing, text) = match error {
        SdkError::ConstructionFailure(_) => (false, chain(error)),
        SdkError::ServiceError(answer) => {
            let (status, code) = (answer.raw().status(), error.code().unwrap_or("no code"));
            let text = format!("{status} {code}: {}", error.message().unwrap_or("no message"));
            (status >= 500 || status == 429 || is_passing(code), text)
        }
        _ => (true, chain(error)),
    };
    if passing { PortError::Unavailable(port, text) } else { PortError::Unusable(port, text) }
}

/// Codes of refusals with status 400 that pass by themselves: throttling, and credentials in the moment of their renewal.
fn is_passing(code: &str) -> bool {
    code.contains("Throttl")
        || matches!(
            code,
            "ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "LimitExceededException"
                | "TransactionInProgressException"
                | "ReplicatedWriteConflictException"
                | "ConditionalRequestConflict"
                | "RequestTimeout"
                | "ExpiredToken"
                | "ExpiredTokenException"
        )
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(cause) = error.source() {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        error = cause;
    }
    text
}

/// The status of an HTTP answer, whichever type a client gives it.
trait HttpStatus {
    fn status(&self) -> u16;
}

impl HttpStatus for aws_sdk_dynamodb::config::http::HttpResponse {
    fn status(&self) -> u16 {
        self.status().as_u16()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::config::http::HttpResponse;
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use aws_sdk_dynamodb::operation::put_item::PutItemError;
    use aws_sdk_s3::primitives::SdkBody;

    fn refusal(status: u16, code: &str) -> PortError {
        let error = PutItemError::generic(ErrorMetadata::builder().code(code).message("no").build());
        let answer = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        port_error("the store", &SdkError::service_error(error, answer))
    }

    #[test]
    fn a_throttled_or_broken_service_is_unavailable() {
        for (status, code) in [
            (400, "ProvisionedThroughputExceededException"),
            (400, "ThrottlingException"),
            (400, "KMSThrottlingException"),
            (429, "Whatever"),
            (500, "InternalServerError"),
            (503, "SlowDown"),
        ] {
            assert!(refusal(status, code).retry(), "{status} {code}");
        }
        assert!(port_error::<PutItemError, HttpResponse>("the store", &SdkError::timeout_error("late")).retry());
    }

    #[test]
    fn a_refusal_for_what_was_asked_is_not_retried() {
        for code in ["ValidationException", "AccessDeniedException", "ResourceNotFoundException"] {
            let refusal = refusal(400, code);
            assert!(!refusal.retry(), "{code}");
            assert!(refusal.to_string().contains(code), "{refusal}");
        }
    }
}
