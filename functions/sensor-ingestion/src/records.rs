//! From valid readings to stream records: one per key and request, unless it would be too large.

use std::collections::{HashMap, VecDeque};

use shared::ports::StreamRecord;
use shared::reading::SensorReading;
use shared::units::Timestamp;
use shared::wire::ReadingRecord;

/// Largest encoded record: what a batch of a stream function has room for many times over.
pub const RECORD_BYTES_MAX: usize = 200_000;

/// A record on its way to the stream, with the places of its readings in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The record.
    pub record: StreamRecord,
    /// Places of its readings in the request.
    pub indices: Vec<usize>,
}

/// The records of one key, to be appended one after the other.
pub type Queue = VecDeque<Pending>;

/// Groups readings by key in the order of the request and encodes each group, its readings by time.
pub fn encode(readings: Vec<(usize, SensorReading)>, received_at: Timestamp, request_id: Option<&str>) -> Vec<Queue> {
    let mut groups: Vec<(String, Vec<(usize, SensorReading)>)> = Vec::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for (index, reading) in readings {
        let group = numbers.get(reading.key()).and_then(|&number| groups.get_mut(number));
        if let Some((_, group)) = group {
            group.push((index, reading));
        } else {
            let key = reading.key().to_owned();
            numbers.insert(key.clone(), groups.len());
            groups.push((key, vec![(index, reading)]));
        }
    }
    let encode = |(key, mut group): (String, Vec<(usize, SensorReading)>)| {
        group.sort_by_key(|(_, reading)| reading.time());
        let (indices, readings) = group.into_iter().unzip();
        let mut queue = Queue::new();
        encode_parts(ReadingRecord { key, received_at, request_id: request_id.map(str::to_owned), readings }, indices, &mut queue);
        queue
    };
    groups.into_iter().map(encode).collect()
}

/// Encodes the record whole, or in halves if it is too large; a single reading is always small enough.
fn encode_parts(mut record: ReadingRecord, mut indices: Vec<usize>, queue: &mut Queue) {
    let data = record.to_bytes();
    if data.len() <= RECORD_BYTES_MAX || record.readings.len() < 2 {
        queue.push_back(Pending { record: StreamRecord { key: record.key, data }, indices });
        return;
    }
    let half = record.readings.len() / 2;
    let later_indices = indices.split_off(half);
    let readings = record.readings.split_off(half);
    let later = ReadingRecord { readings, key: record.key.clone(), request_id: record.request_id.clone(), received_at: record.received_at };
    encode_parts(record, indices, queue);
    encode_parts(later, later_indices, queue);
}
