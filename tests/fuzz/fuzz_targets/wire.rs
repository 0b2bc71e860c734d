//! Any bytes as a request body and as a record of the stream: what is read is written and read again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor_ingestion::records::encode;
use sensor_ingestion::split::split;
use sensor_ingestion::verdict::{Config, check};
use shared::units::Timestamp;
use shared::wire::ReadingRecord;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(texts) = split(bytes) {
        let (valid, rejected) = check(&texts, None, Timestamp::from_millis(0), Config::OPEN);
        assert_eq!(valid.len() + rejected.len(), texts.len());
        let mut written = 0;
        for pending in encode(valid.clone(), Timestamp::from_millis(0), Some("r")).into_iter().flatten() {
            let read = ReadingRecord::from_bytes(&pending.record.data).expect("what is accepted is no poison");
            let sent = pending.indices.iter().map(|index| &valid.iter().find(|(i, _)| i == index).unwrap().1);
            assert!(read.readings.iter().eq(sent), "{read:?}");
            written += read.readings.len();
        }
        assert_eq!(written, valid.len());
    }
    if let Ok(record) = ReadingRecord::from_bytes(bytes) {
        assert_eq!(ReadingRecord::from_bytes(&record.to_bytes()), Ok(record));
    }
});
