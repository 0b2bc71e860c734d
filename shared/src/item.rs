//! Rows as items of a table: the attributes that the DynamoDB adapters write, and what an item counts in a bill.
//!
//! Without the SDK, so that sizes can be computed and tested wherever rows are made.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use sha2::{Digest, Sha256};

use crate::alert::Alert;
use crate::ids::sort_key;
use crate::intersection::Intersection;
use crate::plan::DecisionRecord;
use crate::ports::{ConditionRow, JunctionRow};
use crate::units::Timestamp;

/// How many buckets the partition keys of a listed table have; changing it moves every item.
pub const BUCKETS: u8 = 8;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `S`.
    Text(String),
    /// `N`, whole.
    Number(i64),
    /// `B`.
    Bytes(Vec<u8>),
}

/// The attributes of one item by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item(pub Vec<(&'static str, Value)>);

impl Item {
    /// Size as DynamoDB counts it: names and values; a number takes a byte for two digits and one more.
    pub fn size(&self) -> usize {
        let value = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::Number(number) => number.to_string().len().div_ceil(2) + 1,
            Value::Bytes(bytes) => bytes.len(),
        };
        self.0.iter().map(|(name, of)| name.len() + value(of)).sum()
    }
}

/// A row that has no stored form.
#[derive(Debug, thiserror::Error)]
pub enum UnstorableRow {
    /// It has no bytes.
    #[error(transparent)]
    Bytes(#[from] postcard::Error),
    /// It has no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It could not be packed.
    #[error(transparent)]
    Packed(#[from] std::io::Error),
}

/// Longest text that is unpacked: more than any item holds.
const UNPACKED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Packs text for a store that bills by size (raw deflate): JSON with many similar parts takes a fifth.
///
/// # Errors
/// [`std::io::Error`] if memory runs out.
pub fn pack(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::best());
    packer.write_all(text)?;
    packer.finish()
}

/// The text that [`pack`] packed.
///
/// # Errors
/// [`std::io::Error`] if the bytes are something else.
pub fn unpack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    DeflateDecoder::new(bytes).take(UNPACKED_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// The bucket of an id: its partition in the tables that are listed by id.
pub fn bucket_of(id: &str) -> u8 {
    Sha256::digest(id.as_bytes()).first().copied().unwrap_or_default() % BUCKETS
}

/// The key attributes of the item with this id, in a table with buckets.
pub fn key(id: &str) -> [(&'static str, Value); 2] {
    [("bucket", Value::Text(bucket_of(id).to_string())), ("id", Value::Text(id.to_owned()))]
}

fn with_key(id: &str, attributes: impl IntoIterator<Item = (&'static str, Value)>) -> Item {
    Item(key(id).into_iter().chain(attributes).collect())
}

/// Table `intersections`.
pub fn intersection(intersection: &Intersection) -> Item {
    let document = Value::Text(intersection.document().to_string());
    with_key(intersection.id().as_str(), [("document", document), ("etag", Value::Text(intersection.etag().to_string()))])
}

/// Table `junctions`.
///
/// # Errors
/// [`UnstorableRow`] if memory runs out.
pub fn junction(row: &JunctionRow) -> Result<Item, UnstorableRow> {
    let attributes = [
        ("version", version(row.version)),
        // For people who look at the table; the plan holds it too.
        ("as_of", time(row.plan.as_of)),
        ("plan", Value::Bytes(row.plan.to_bytes()?)),
        ("state", Value::Bytes(row.state.clone())),
    ];
    Ok(with_key(row.plan.intersection_id.as_str(), attributes))
}

/// Table `decisions`; `expires_at` in epoch seconds.
///
/// # Errors
/// [`UnstorableRow`] if it has no JSON.
pub fn decision(record: &DecisionRecord, expires_at: i64) -> Result<Item, UnstorableRow> {
    Ok(Item(vec![
        ("id", Value::Text(record.intersection_id.as_str().to_owned())),
        ("as_of", time(record.as_of)),
        // A text until 2026-11; those are gone after their retention.
        ("record", Value::Bytes(pack(&serde_json::to_vec(record)?)?)),
        ("expires_at", Value::Number(expires_at)),
    ]))
}

/// Table `conditions`.
///
/// # Errors
/// [`UnstorableRow`] if it has no JSON.
pub fn condition(row: &ConditionRow) -> Result<Item, UnstorableRow> {
    let ConditionRow { version: number, condition, state } = row;
    let attributes = [
        ("version", version(*number)),
        ("as_of", time(condition.as_of)),
        ("received_at", time(condition.received_at)),
        ("health", Value::Text(serde_json::to_string(&condition.health)?)),
        ("state", Value::Bytes(state.clone())),
    ];
    Ok(with_key(&sort_key(&condition.key), attributes))
}

/// Table `alerts`; `expires_at` in epoch seconds, of an alert that is cleared.
///
/// # Errors
/// [`UnstorableRow`] if it has no JSON.
pub fn alert(alert: &Alert, expires_at: i64) -> Result<Item, UnstorableRow> {
    let json = Value::Text(serde_json::to_string(alert)?);
    let mut item = with_key(alert.id.as_str(), [("alert", json), ("changes", Value::Number(alert.changes().into()))]);
    item.0.extend(alert.cleared_at.map(|_| ("expires_at", Value::Number(expires_at))));
    Ok(item)
}

fn version(number: u64) -> Value {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

fn time(at: Timestamp) -> Value {
    Value::Number(at.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_counts_names_and_values_and_half_a_byte_for_a_digit() {
        let item = Item(vec![("id", Value::Text("J1".into())), ("version", Value::Number(12_345)), ("state", Value::Bytes(vec![0; 9]))]);
        assert_eq!(item.size(), (2 + 2) + (7 + 4) + (5 + 9));
    }

    #[test]
    fn what_was_packed_is_unpacked_and_other_bytes_are_refused() {
        let text = r#"{"detectors": [{"id": "n_0", "waiting": 0.0}, {"id": "n_1", "waiting": 0.0}]}"#.repeat(50);
        let packed = pack(text.as_bytes()).unwrap();
        assert!(packed.len() * 20 < text.len(), "{} bytes", packed.len());
        assert_eq!(unpack(&packed).unwrap(), text.as_bytes());
        assert!(unpack(text.as_bytes()).is_err() && unpack(&packed[..packed.len() / 2]).is_err());
    }

    #[test]
    fn ids_spread_over_the_buckets_and_stay_there() {
        let mut counts = [0; BUCKETS as usize];
        (0..800).for_each(|n| counts[usize::from(bucket_of(&format!("J{n}")))] += 1);
        assert!(counts.iter().all(|n| (60..140).contains(n)), "{counts:?}");
        // Stored items lie where this function once put them.
        assert_eq!(["J1", "J2", "north.17"].map(bucket_of), [1, 5, 4]);
    }
}
