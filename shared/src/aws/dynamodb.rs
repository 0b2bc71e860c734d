//! The stores over DynamoDB: one module per table.
//!
//! Intersections and junctions are listed by id, in order and by prefix. A table with the id alone as partition key could only
//! be scanned for that, and one fixed partition key would put every write on one partition (1000 writes a second). So their
//! partition key is one of eight buckets, chosen by a hash of the id, and their sort key the id: writes spread over eight
//! partitions (8000 a second, a step every 5 s of 40 000 junctions), and a list is eight queries merged.

mod buckets;
mod decisions;
mod intersections;
mod junctions;

use std::collections::HashMap;
use std::error::Error;
use std::fmt::{Debug, Display};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::SharedAsyncSleep;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;

use super::config::{ConfigError, Environment};
use super::{HttpStatus, port_error};
use crate::ports::{Clock, PortError, WriteError};

/// The tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Configuration, written by `operations-api`; has the index `ids`.
    pub intersections: String,
    /// Plans and state, written by `signal-adjustment`.
    pub junctions: String,
    /// Decision records, written by `signal-adjustment`.
    pub decisions: String,
    /// How many days a decision record stays after it was written.
    pub decisions_retention_days: u32,
}

impl Tables {
    /// Reads `INTERSECTIONS_TABLE`, `JUNCTIONS_TABLE`, `DECISIONS_TABLE` and `DECISIONS_RETENTION_DAYS` (30 if absent).
    ///
    /// # Errors
    /// [`ConfigError`] names the variable that is missing or wrong.
    pub fn read<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<Self, ConfigError> {
        Ok(Self {
            intersections: environment.text("INTERSECTIONS_TABLE")?,
            junctions: environment.text("JUNCTIONS_TABLE")?,
            decisions: environment.text("DECISIONS_TABLE")?,
            decisions_retention_days: environment.number_or("DECISIONS_RETENTION_DAYS", 30)?,
        })
    }
}

/// All stores over one client. Clones share it.
#[derive(Clone, Debug)]
pub struct DynamoDb<C> {
    client: Client,
    tables: Tables,
    clock: C,
    sleep: Option<SharedAsyncSleep>,
}

impl<C: Clock> DynamoDb<C> {
    /// The stores in these tables; `clock` tells when decision records are written, and so when they expire.
    pub fn new(config: &SdkConfig, tables: Tables, clock: C) -> Self {
        Self { client: Client::new(config), tables, clock, sleep: config.sleep_impl() }
    }
}

type Item = HashMap<String, AttributeValue>;

/// What an attribute of an item should be.
trait Attribute: Sized {
    fn read(value: &AttributeValue) -> Option<Self>;
}

impl Attribute for String {
    fn read(value: &AttributeValue) -> Option<Self> {
        value.as_s().ok().cloned()
    }
}

impl Attribute for u64 {
    fn read(value: &AttributeValue) -> Option<Self> {
        value.as_n().ok()?.parse().ok()
    }
}

impl Attribute for Vec<u8> {
    fn read(value: &AttributeValue) -> Option<Self> {
        value.as_b().ok().map(|blob| blob.as_ref().to_vec())
    }
}

fn attribute<T: Attribute>(port: &'static str, item: &Item, name: &str) -> Result<T, PortError> {
    item.get(name).and_then(T::read).ok_or_else(|| PortError::Unusable(port, format!("an item has no readable attribute '{name}'")))
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: impl Display) -> AttributeValue {
    AttributeValue::N(format!("{value}"))
}

/// The outcome of a conditional write.
fn written<T, E, R>(port: &'static str, outcome: Result<T, SdkError<E, R>>) -> Result<(), WriteError>
where
    E: ProvideErrorMetadata + Error + 'static,
    R: HttpStatus + Debug,
{
    match outcome {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Err(WriteError::Conflict),
        Err(error) => Err(port_error(port, &error).into()),
    }
}
