//! The stores over DynamoDB: one module per table.
//!
//! Intersections, junctions, assets, conditions and alerts are listed by id, in order and by prefix. A table with the id alone as partition key could only
//! be scanned for that, and one fixed partition key would put every write on one partition (1000 writes a second). So their
//! partition key is one of eight buckets, chosen by a hash of the id, and their sort key the id: writes spread over eight
//! partitions (8000 a second, a step every 5 s of 40 000 junctions), and a list is eight queries merged.

mod acknowledgements;
mod alerts;
mod assets;
mod batch;
mod buckets;
mod conditions;
mod decisions;
mod intersections;
mod junctions;
pub mod tables;

use std::collections::HashMap;
use std::error::Error;
use std::fmt::{Debug, Display};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::SharedAsyncSleep;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use self::batch::Batch;
use super::{HttpStatus, port_error};
use crate::intersection::ETag;
use crate::item::{UnstorableRow, Value};
use crate::ports::{Clock, PortError, WriteError};
use crate::units::Timestamp;

/// The stores whose tables are in the set `T` (see [`crate::tables!`]), over one client. Clones share it.
#[derive(Clone, Debug)]
pub struct DynamoDb<T, C> {
    client: Client,
    tables: T,
    clock: C,
    sleep: Option<SharedAsyncSleep>,
}

impl<T, C: Clock> DynamoDb<T, C> {
    /// The stores in these tables; `clock` tells when decisions and cleared alerts are written, and so when they expire.
    pub fn new(config: &SdkConfig, tables: T, clock: C) -> Self {
        Self { client: Client::new(config), tables, clock, sleep: config.sleep_impl() }
    }

    fn table<N>(&self) -> &N
    where
        T: AsRef<N>,
    {
        self.tables.as_ref()
    }

    fn batch<'a>(&'a self, port: &'static str, table: &'a str) -> Batch<'a> {
        Batch { client: &self.client, sleep: self.sleep.as_ref(), port, table }
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

impl Attribute for i64 {
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

/// The item as the SDK takes it.
fn sdk(item: crate::item::Item) -> Item {
    let value = |value| match value {
        Value::Text(text) => AttributeValue::S(text),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::Bytes(bytes) => AttributeValue::B(Blob::new(bytes)),
    };
    item.0.into_iter().map(|(name, of)| (name.to_owned(), value(of))).collect()
}

fn unstorable(port: &'static str) -> impl Fn(UnstorableRow) -> PortError {
    move |error| PortError::Unusable(port, error.to_string())
}

/// The asset whose [`crate::ids::sort_key`] this is.
fn asset_of(sort_key: &str) -> String {
    sort_key.replace('!', "/")
}

/// When an item written now is forgotten, in epoch seconds.
fn expiry(now: Timestamp, retention_days: u32) -> i64 {
    now.as_millis() / 1000 + i64::from(retention_days) * 86_400
}

/// Puts over nothing or over the item with this tag.
fn over_tag(call: PutItemFluentBuilder, expected: Option<&ETag>) -> PutItemFluentBuilder {
    match expected {
        None => over_nothing(call),
        Some(tag) => call
            .condition_expression("#etag = :expected")
            .expression_attribute_names("#etag", "etag")
            .expression_attribute_values(":expected", text(tag.to_string())),
    }
}

/// Puts over nothing (0) or over the item with this version.
fn over_version(call: PutItemFluentBuilder, expected: u64) -> PutItemFluentBuilder {
    match expected {
        0 => over_nothing(call),
        _ => call
            .condition_expression("#version = :expected")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":expected", number(expected)),
    }
}

fn over_nothing(call: PutItemFluentBuilder) -> PutItemFluentBuilder {
    call.condition_expression("attribute_not_exists(#id)").expression_attribute_names("#id", "id")
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

/// The readable entries of a page. One that is not is logged and left out, so that it does not hide all others.
fn readable<T>(rows: Vec<(String, Item)>, read: impl Fn(&str, &Item) -> Result<T, PortError>) -> Vec<T> {
    let read = |(id, item): (String, Item)| {
        let entry = read(&id, &item).inspect_err(|error| tracing::error!(id, error = %error, "an entry is left out of a list"));
        entry.ok()
    };
    rows.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_forgotten_after_its_retention_counted_from_the_writing() {
        let now = Timestamp::parse("2026-11-22T08:00:05.999Z").unwrap();
        let forgotten = Timestamp::parse("2026-12-22T08:00:05Z").unwrap();
        assert_eq!(expiry(now, 30) * 1000, forgotten.as_millis());
    }

    #[test]
    fn one_unreadable_entry_does_not_hide_the_others() {
        let rows = [("J1", text("1")), ("J2", number(2)), ("J3", text("3"))];
        let rows = rows.map(|(id, name)| (id.to_owned(), Item::from([("name".to_owned(), name)])));
        let names = readable(rows.into(), |_, item| attribute::<String>("the store", item, "name"));
        assert_eq!(names, ["1", "3"]);
    }

    #[test]
    fn an_asset_is_found_again_by_its_sort_key() {
        for asset in ["truck-17", "J1/n_0"] {
            assert_eq!(asset_of(&crate::ids::sort_key(asset)), asset);
        }
    }
}
