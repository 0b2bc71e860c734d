//! Records of the embedded stream: where a key lives, how a record is numbered, what a consumer sees of it.

use std::fmt;

use aws_lambda_events::event::kinesis::{KinesisEvent, KinesisEventRecord};
use serde::{Deserialize, Serialize};
use shared::units::Timestamp;

/// Most open shards of one stream.
pub const SHARDS_MAX: u16 = 64;

/// Name of the stream in events and in the ids of poison records.
pub const STREAM_ARN: &str = "arn:aws:kinesis:local:000000000000:stream/greenwave-readings";

/// Place of a record in its shard; 0 lies before the first record.
///
/// As text it has 21 digits with leading zeros, so that texts compare like numbers, as those of Kinesis do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first record: where `TRIM_HORIZON` begins on a fresh stream.
    pub const START: Self = Self(0);

    /// The place with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The place before this one.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:021}", self.0)
    }
}

/// One record as a consumer reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place in the shard.
    pub sequence: Sequence,
    /// Its partition key.
    pub key: String,
    /// Its bytes.
    pub data: Vec<u8>,
    /// When the stream took it.
    pub arrived_at: Timestamp,
}

/// Stable hash of a partition key: FNV-1a with 64 bits, then the finaliser of `MurmurHash3`, which spreads keys that differ in
/// their last character over all bits.
///
/// Stored data depends on it: a change needs a new format version of the store.
const fn hash(key: &[u8]) -> u64 {
    let (mut hash, mut rest) = (0xcbf2_9ce4_8422_2325_u64, key);
    while let [byte, tail @ ..] = rest {
        hash = (hash ^ *byte as u64).wrapping_mul(0x0100_0000_01b3);
        rest = tail;
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// What decides the shard of a key, as its MD5 does on Kinesis: the lower half of its hash. A shard holds a range of these.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
pub const fn shard_hash(key: &str) -> u32 {
    hash(key.as_bytes()) as u32
}

/// Where the range of each shard begins in a new stream of so many: all are as wide as each other.
#[expect(clippy::cast_possible_truncation, reason = "the last range begins below 2^32")]
pub fn first_hashes(shards: u16) -> impl Iterator<Item = u32> {
    (0..u64::from(shards)).map(move |shard| (shard << 32).div_ceil(u64::from(shards)) as u32)
}

/// The shard of a key in a stream of so many that was never resharded: the one in whose range its hash lies.
#[expect(clippy::cast_possible_truncation, reason = "it is below the number of shards")]
pub const fn shard_of(key: &str, shards: u16) -> u16 {
    ((shard_hash(key) as u64 * shards as u64) >> 32) as u16
}

/// The lane of a key within its shard: the upper half of its hash, so that every lane of every shard gets keys.
pub const fn lane_of(key: &str, lanes: usize) -> usize {
    ((hash(key.as_bytes()) >> 32) % if lanes == 0 { 1 } else { lanes as u64 }) as usize
}

/// Name of a shard, as in the event's `eventID`.
pub fn shard_name(shard: u16) -> String {
    format!("shardId-{shard:012}")
}

/// The event that a function gets for these records.
pub fn event<'a>(shard: u16, records: impl IntoIterator<Item = &'a Record>) -> KinesisEvent {
    let mut event = KinesisEvent::default();
    event.records = records.into_iter().map(|record| event_record(shard, record)).collect();
    event
}

fn event_record(shard: u16, record: &Record) -> KinesisEventRecord {
    let mut out = KinesisEventRecord::default();
    out.aws_region = Some("local".into());
    out.event_id = Some(format!("{}:{}", shard_name(shard), record.sequence));
    out.event_name = Some("aws:kinesis:record".into());
    out.event_source = Some("aws:kinesis".into());
    out.event_source_arn = Some(STREAM_ARN.into());
    out.event_version = Some("1.0".into());
    out.kinesis.kinesis_schema_version = Some("1.0".into());
    out.kinesis.partition_key.clone_from(&record.key);
    out.kinesis.sequence_number = record.sequence.to_string();
    out.kinesis.data.0.clone_from(&record.data);
    // The default is the epoch; clocks before it do not occur on a stream.
    let since_epoch = u64::try_from(record.arrived_at.as_millis()).unwrap_or_default();
    *out.kinesis.approximate_arrival_timestamp += std::time::Duration::from_millis(since_epoch);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn sequence_numbers_compare_as_text_as_they_do_as_numbers() {
        let texts: Vec<String> = [0, 9, 10, 99, 1 << 40, u64::MAX].map(|n| Sequence::new(n).to_string()).into();
        assert!(texts.is_sorted() && texts.iter().all(|t| t.len() == 21), "{texts:?}");
    }

    #[test]
    fn a_key_keeps_its_shard_and_lane_for_ever() {
        // Fixed values: a change here strands stored records.
        assert_eq!(["J1", "J2", "truck-17"].map(|k| (shard_of(k, 4), lane_of(k, 4))), [(0, 3), (3, 3), (3, 0)]);
    }

    #[test]
    fn ranges_of_equal_width_begin_where_the_shard_of_a_key_changes() {
        for shards in 1..=SHARDS_MAX {
            let firsts: Vec<u32> = first_hashes(shards).collect();
            assert!(firsts.len() == usize::from(shards) && firsts[0] == 0 && firsts.is_sorted_by(|a, b| a < b), "{firsts:?}");
            for key in (0..200).map(|i| format!("J{i}")) {
                let holds = firsts.partition_point(|&first| first <= shard_hash(&key)) - 1;
                assert_eq!(usize::from(shard_of(&key, shards)), holds, "{key} of {shards}");
            }
        }
    }

    #[test]
    fn every_lane_of_every_shard_gets_its_share_of_the_keys() {
        let mut seen: BTreeMap<(u16, usize), usize> = BTreeMap::new();
        for i in 0..4_000 {
            let key = format!("J{i}");
            *seen.entry((shard_of(&key, 4), lane_of(&key, 10))).or_default() += 1;
        }
        assert_eq!(seen.len(), 40);
        assert!(seen.values().all(|&n| (50..200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn an_event_carries_what_kinesis_would_send() {
        let record = Record {
            sequence: Sequence::new(7),
            key: "J1".into(),
            data: b"x".to_vec(),
            arrived_at: Timestamp::parse("2026-11-22T08:00:05.123Z").unwrap(),
        };
        let json = serde_json::to_value(event(2, [&record])).unwrap();
        let got = &json["Records"][0];
        assert_eq!(got["eventID"], "shardId-000000000002:000000000000000000007");
        assert_eq!(got["kinesis"]["data"], "eA==");
        assert_eq!(got["kinesis"]["approximateArrivalTimestamp"], "1795334405.123");
        assert_eq!(got["eventSource"], "aws:kinesis");
    }
}
