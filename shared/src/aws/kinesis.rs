//! The reading stream over Kinesis.

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, PutRecordsResultEntry};

use super::port_error;
use crate::ports::{PortError, ReadingStream, StreamRecord};

const PORT: &str = "the reading stream";

/// Bounds of one `PutRecords` call and of one record with its key. AWS takes 10 MiB a call since 2025, emulators 5 MiB.
const CALL_RECORDS_MAX: usize = 500;
const CALL_BYTES_MAX: usize = 5 * 1024 * 1024;
const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// Appends to one Kinesis stream.
#[derive(Clone, Debug)]
pub struct KinesisStream {
    client: Client,
    stream: String,
}

impl KinesisStream {
    /// The stream of this name.
    pub fn new(config: &SdkConfig, stream: impl Into<String>) -> Self {
        // Ingestion sends again what was refused, so the client must not: five tries of 3 s and their pauses stay below the
        // function's timeout, fifteen would not.
        let config = aws_sdk_kinesis::config::Builder::from(config).retry_config(RetryConfig::disabled()).build();
        Self { client: Client::from_conf(config), stream: stream.into() }
    }

    async fn put(&self, records: impl Iterator<Item = &StreamRecord>) -> Result<Vec<PutRecordsResultEntry>, PortError> {
        let mut call = self.client.put_records().stream_name(&self.stream);
        for record in records {
            let entry = PutRecordsRequestEntry::builder().partition_key(&record.key).data(Blob::new(record.data.clone()));
            call = call.records(entry.build().map_err(|error| PortError::Unusable(PORT, error.to_string()))?);
        }
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        Ok(answer.records)
    }
}

impl ReadingStream for KinesisStream {
    async fn append(&self, records: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> {
        let too_large = || PortError::Unusable(PORT, format!("a record is larger than {RECORD_BYTES_MAX} bytes"));
        let mut outcomes: Vec<_> = records.iter().map(|_| Err(too_large())).collect();
        let sizes: Vec<usize> = records.iter().map(|record| record.key.len() + record.data.len()).collect();
        for call in calls(&sizes) {
            let answer = self.put(call.iter().filter_map(|&i| records.get(i))).await?;
            for (i, n) in call.into_iter().zip(0..) {
                if let Some(place) = outcomes.get_mut(i) {
                    *place = outcome(answer.get::<usize>(n));
                }
            }
        }
        Ok(outcomes)
    }
}

/// What became of one entry. Kinesis answers 200 while it refuses single entries, always for a reason that passes
/// (`ProvisionedThroughputExceededException`, `InternalFailure`).
fn outcome(entry: Option<&PutRecordsResultEntry>) -> Result<(), PortError> {
    match entry {
        Some(entry) if entry.sequence_number().is_some() => Ok(()),
        Some(entry) => {
            let (code, message) = (entry.error_code().unwrap_or("no code"), entry.error_message().unwrap_or("no message"));
            Err(PortError::Unavailable(PORT, format!("{code}: {message}")))
        }
        None => Err(PortError::Unavailable(PORT, "it gave no result for the record".into())),
    }
}

/// Which records go into which call, in order; records over the bound go into none.
fn calls(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for (i, &size) in sizes.iter().enumerate().filter(|(_, size)| **size <= RECORD_BYTES_MAX) {
        match calls.last_mut() {
            Some(call) if call.len() < CALL_RECORDS_MAX && bytes + size <= CALL_BYTES_MAX => call.push(i),
            _ => {
                calls.push(vec![i]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_keeps_to_the_limits_of_the_stream() {
        let mib = 1024 * 1024;
        assert_eq!(calls(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(calls(&[10, mib + 1, 10]), [vec![0, 2]]);
        assert_eq!(calls(&[mib; 7]), [vec![0, 1, 2, 3, 4], vec![5, 6]]);
        assert_eq!(calls(&[1; 1100]).iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 100]);
    }

    #[test]
    fn a_refused_entry_may_be_sent_again() {
        let taken = PutRecordsResultEntry::builder().sequence_number("1").shard_id("shardId-0").build();
        let refused = PutRecordsResultEntry::builder().error_code("ProvisionedThroughputExceededException").build();
        assert_eq!(outcome(Some(&taken)), Ok(()));
        assert!(outcome(Some(&refused)).unwrap_err().retry());
        assert!(outcome(None).unwrap_err().retry());
    }
}
