//! A stream that refuses by script, and readings for it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::memory::Memory;
use shared::ports::{PortError, ReadingStream, StreamRecord};
use shared::reading::SensorReading;
use shared::wire::ReadingRecord;

/// How one call ends. A mask has one bit per record of the call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// Refuses these records and takes the others.
    Refuse { refused: u64, retry: bool },
    /// Fails as a whole, though these records got through.
    Fail { through: u64, retry: bool },
}

/// Ends each call as the script says, then takes everything.
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    memory: Memory,
    script: Arc<Mutex<VecDeque<Call>>>,
    calls: Arc<Mutex<usize>>,
    waits: Arc<Mutex<Vec<Duration>>>,
}

fn has(mask: u64, number: usize) -> bool {
    mask >> (number % 64) & 1 == 1
}

fn error(retry: bool) -> PortError {
    if retry { PortError::Unavailable("stream", "throttled".into()) } else { PortError::Unusable("stream", "no such stream".into()) }
}

impl Scripted {
    pub(crate) fn new(script: impl IntoIterator<Item = Call>) -> Self {
        Self { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Self::default() }
    }

    pub(crate) fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }

    /// Notes each wait instead of waiting.
    pub(crate) fn sleep(&self) -> impl Fn(Duration) -> std::future::Ready<()> + use<> {
        let waits = Arc::clone(&self.waits);
        move |time| {
            waits.lock().unwrap().push(time);
            std::future::ready(())
        }
    }

    pub(crate) fn waits(&self) -> Vec<Duration> {
        self.waits.lock().unwrap().clone()
    }

    pub(crate) fn records(&self) -> Vec<ReadingRecord> {
        let records = self.memory.stream();
        assert!(records.iter().all(|record| record.data.len() <= 200_000), "a record is too large");
        records.iter().map(|record| ReadingRecord::from_bytes(&record.data).unwrap()).collect()
    }

    /// Records of a key as they are; one that was sent twice in a row counts once.
    pub(crate) fn raw(&self, key: &str) -> Vec<StreamRecord> {
        let mut records = self.memory.stream();
        records.retain(|record| record.key == key);
        records.dedup();
        records
    }

    /// Cycles of the readings of a key in the order of the stream; a record sent twice in a row counts once.
    pub(crate) fn cycles(&self, key: &str) -> Vec<u64> {
        let mut records: Vec<_> = self.records().into_iter().filter(|record| record.key == key).collect();
        records.dedup();
        records.iter().flat_map(|record| &record.readings).map(cycle).collect()
    }
}

fn cycle(reading: &SensorReading) -> u64 {
    let SensorReading::Telemetry(telemetry) = reading else { panic!("{reading:?}") };
    telemetry.cycle.unwrap()
}

impl ReadingStream for Scripted {
    async fn append(&self, records: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> {
        assert!(!records.is_empty() && records.len() <= 500);
        assert!(records.iter().map(|record| record.key.len() + record.data.len()).sum::<usize>() <= 5 * 1024 * 1024);
        let keys: BTreeSet<_> = records.iter().map(|record| &record.key).collect();
        assert_eq!(keys.len(), records.len(), "two records of one key in one call have no order");

        *self.calls.lock().unwrap() += 1;
        let call = self.script.lock().unwrap().pop_front().unwrap_or(Call::Refuse { refused: 0, retry: true });
        let (taken, retry) = match call {
            Call::Refuse { refused, retry } => (!refused, retry),
            Call::Fail { through, retry } => (through, retry),
        };
        let taken = |number| has(taken, number);
        let through: Vec<_> = records.iter().enumerate().filter(|(number, _)| taken(*number)).map(|(_, record)| record.clone()).collect();
        self.memory.append(&through).await?;
        match call {
            Call::Refuse { .. } => Ok((0..records.len()).map(|number| if taken(number) { Ok(()) } else { Err(error(retry)) }).collect()),
            Call::Fail { .. } => Err(error(retry)),
        }
    }
}

/// A reading of an asset, told from others by its cycle; a big one takes more than a tenth of a record.
pub(crate) fn reading(asset: &str, second: u32, cycle: usize, big: bool) -> String {
    let metrics: Vec<_> = (0..if big { 250 } else { 1 }).map(|i| format!(r#""m{i}{}":1.5"#, "x".repeat(60))).collect();
    let metrics = metrics.join(",");
    format!(
        r#"{{"type":"telemetry","asset_id":"{asset}","asset_kind":"pump","time":"2026-11-22T08:00:{second:02}Z","cycle":{cycle},"metrics":{{{metrics}}}}}"#
    )
}
