//! Calls with many items, and what they leave undone.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{AsyncSleep, SharedAsyncSleep};
use aws_sdk_dynamodb::types::{KeysAndAttributes, PutRequest, WriteRequest};

use super::Item;
use crate::aws::port_error;
use crate::ports::PortError;

/// Most items of one `BatchWriteItem`.
const WRITES_MAX: usize = 25;
/// Most keys of one `BatchGetItem`.
const READS_MAX: usize = 100;
/// Tries for what a batch leaves unprocessed, with pauses of 50, 100 and 200 ms: long enough for a table that is splitting a hot
/// partition to take some, short beside the 5 s of a step.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);

/// Reads and writes many items of one table.
pub(super) struct Batch<'a> {
    pub(super) client: &'a Client,
    pub(super) sleep: Option<&'a SharedAsyncSleep>,
    pub(super) port: &'static str,
    pub(super) table: &'a str,
}

impl Batch<'_> {
    /// Puts the items, no two of which may have the same key.
    pub(super) async fn put(&self, items: Vec<Item>) -> Result<(), PortError> {
        let request = |item| {
            let put = PutRequest::builder().set_item(Some(item)).build();
            let put = put.map_err(|error| PortError::Unusable(self.port, error.to_string()))?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        let requests: Vec<_> = items.into_iter().map(request).collect::<Result<_, _>>()?;
        for batch in requests.chunks(WRITES_MAX) {
            self.write(batch.to_vec()).await?;
        }
        Ok(())
    }

    async fn write(&self, mut requests: Vec<WriteRequest>) -> Result<(), PortError> {
        for attempt in 0..TRIES {
            let answer = self.client.batch_write_item().request_items(self.table, requests).send().await;
            let answer = answer.map_err(|error| port_error(self.port, &error))?;
            requests = answer.unprocessed_items.and_then(|mut items| items.remove(self.table)).unwrap_or_default();
            if requests.is_empty() {
                return Ok(());
            }
            self.pause(attempt).await;
        }
        Err(self.unprocessed(requests.len()))
    }

    /// The items with these keys (a consistent read), in any order, as far as there are any; no key may come twice.
    pub(super) async fn get(&self, keys: &[Item]) -> Result<Vec<Item>, PortError> {
        let mut items = Vec::new();
        for batch in keys.chunks(READS_MAX) {
            items.extend(self.read(batch.to_vec()).await?);
        }
        Ok(items)
    }

    async fn read(&self, mut keys: Vec<Item>) -> Result<Vec<Item>, PortError> {
        let mut items = Vec::new();
        for attempt in 0..TRIES {
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let wanted = wanted.map_err(|error| PortError::Unusable(self.port, error.to_string()))?;
            let answer = self.client.batch_get_item().request_items(self.table, wanted).send().await;
            let answer = answer.map_err(|error| port_error(self.port, &error))?;
            items.extend(answer.responses.and_then(|mut items| items.remove(self.table)).unwrap_or_default());
            keys = answer.unprocessed_keys.and_then(|mut keys| keys.remove(self.table)).map(|left| left.keys).unwrap_or_default();
            if keys.is_empty() {
                return Ok(items);
            }
            self.pause(attempt).await;
        }
        Err(self.unprocessed(keys.len()))
    }

    async fn pause(&self, attempt: u32) {
        if let Some(sleep) = self.sleep.filter(|_| attempt + 1 < TRIES) {
            sleep.sleep(PAUSE * 2_u32.pow(attempt)).await;
        }
    }

    fn unprocessed(&self, items: usize) -> PortError {
        PortError::Unavailable(self.port, format!("{items} items stayed unprocessed"))
    }
}
