//! Any lines as the records of a batch, delivered twice to both processors: each takes effect once or lies in the quarantine
//! with its bytes, and nothing panics.
#![no_main]

use aws_lambda_events::event::kinesis::{KinesisEvent, KinesisEventRecord};
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::ports::IntersectionStore;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::ReadingRecord;

fn event(bytes: &[u8]) -> KinesisEvent {
    let mut event = KinesisEvent::default();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let mut record = KinesisEventRecord::default();
        record.event_id = Some(format!("shard-0:{number}"));
        record.kinesis.sequence_number = number.to_string();
        record.kinesis.data.0 = line.to_vec();
        event.records.push(record);
    }
    event
}

fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}

thread_local! {
    static JUNCTION: Intersection = Intersection::from_json(include_str!("../../../events/intersection.json")).unwrap();
}

fuzz_target!(|bytes: &[u8]| {
    let memory = Memory::new();
    JUNCTION.with(|junction| at_once(memory.put(None, junction))).unwrap();
    let clock = ManualClock::at(Timestamp::from_millis(1_795_334_400_000));
    let signals = signal_adjustment::workflow::Workflow::new(memory.clone(), clock.clone(), Deciseconds::ZERO);
    let maintenance =
        maintenance_prediction::workflow::Workflow::new(memory.clone(), memory.clone(), memory.clone(), clock, Deciseconds::ZERO);
    let event = event(bytes);
    let mut before = None;
    for _ in 0..2 {
        let of_signals = at_once(signal_adjustment::handle(event.clone(), &signals, &memory));
        let of_maintenance = at_once(maintenance_prediction::handle(event.clone(), &maintenance, &memory));
        assert!(of_signals.batch_item_failures.is_empty() && of_maintenance.batch_item_failures.is_empty());
        let poison = event.records.iter().map(|record| &record.kinesis.data.0).filter(|data| ReadingRecord::from_bytes(data).is_err());
        let mut expected: Vec<_> = poison.flat_map(|data| [data.clone(), data.clone()]).collect();
        let mut kept: Vec<_> = memory.quarantined().into_iter().map(|record| record.data).collect();
        expected.sort();
        kept.sort();
        assert_eq!(kept, expected);
        let plans: Vec<_> = memory.junctions().into_iter().map(|row| row.plan.stages).collect();
        assert_eq!(before.get_or_insert_with(|| plans.clone()), &plans);
    }
});
