//! The adapters for AWS: each behaviour has tables, a stream and a bucket of its own, which `tests/adapters.py` made and named
//! after it.

use aws_sdk_kinesis::types::ShardIteratorType;
use shared::aws::{DynamoDb, KinesisStream, S3Quarantine, SdkConfig, sdk_config, tables};
use shared::memory::ManualClock;
use shared::ports::{PoisonRecord, PortError, Quarantine, ReadingStream, StreamRecord};
use tests::junction::at;

use super::{Cellar, Stream, row_of};

shared::tables! {
    /// All tables.
    #[allow(dead_code, reason = "its names are made here instead of read")]
    pub(super) struct Tables {
        intersections: Intersections,
        junctions: Junctions,
        decisions: Decisions,
        assets: Assets,
        conditions: Conditions,
        alerts: Alerts,
        acknowledgements: Acknowledgements,
    }
}

/// The stores over the tables of this behaviour.
pub(super) async fn stores(behaviour: &str) -> DynamoDb<Tables, ManualClock> {
    let name = |table: &str| format!("{behaviour}.{table}");
    let tables = Tables {
        intersections: tables::Intersections { name: name("Intersections") },
        junctions: tables::Junctions { name: name("Junctions") },
        decisions: tables::Decisions { name: name("Decisions"), retention_days: 30 },
        assets: tables::Assets { name: name("Assets") },
        conditions: tables::Conditions { name: name("Conditions") },
        alerts: tables::Alerts { name: name("Alerts"), retention_days: 365 },
        acknowledgements: tables::Acknowledgements { name: name("Acknowledgements") },
    };
    DynamoDb::new(&sdk_config().await, tables, ManualClock::at(at(0)))
}

/// The stream of this behaviour.
pub(super) async fn stream(behaviour: &str) -> Deployed<KinesisStream> {
    let config = sdk_config().await;
    Deployed { port: KinesisStream::new(&config, behaviour), config, name: behaviour.to_owned() }
}

/// The bucket of this behaviour.
pub(super) async fn quarantine(behaviour: &str) -> Deployed<S3Quarantine> {
    let (config, name) = (sdk_config().await, behaviour.replace('_', "-"));
    Deployed { port: S3Quarantine::new(&config, &name), config, name }
}

/// An adapter, and the way to what it wrote.
pub(super) struct Deployed<P> {
    port: P,
    config: SdkConfig,
    name: String,
}

impl ReadingStream for Deployed<KinesisStream> {
    async fn append(&self, records: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> {
        self.port.append(records).await
    }
}

impl Stream for Deployed<KinesisStream> {
    async fn records_of(&self, key: &str) -> Vec<Vec<u8>> {
        let client = aws_sdk_kinesis::Client::new(&self.config);
        let shards = client.list_shards().stream_name(&self.name).send().await.unwrap();
        let mut all = Vec::new();
        for shard in shards.shards() {
            let start = client.get_shard_iterator().stream_name(&self.name).shard_id(shard.shard_id());
            let start = start.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
            let mut next = start.shard_iterator().map(str::to_owned);
            while let Some(iterator) = next {
                let page = client.get_records().shard_iterator(iterator).send().await.unwrap();
                next = page.next_shard_iterator().filter(|_| !page.records().is_empty()).map(str::to_owned);
                let of_key = page.records.into_iter().filter(|record| record.partition_key() == Some(key));
                all.extend(of_key.map(|record| record.data.into_inner()));
            }
        }
        all
    }
}

impl Quarantine for Deployed<S3Quarantine> {
    async fn quarantine(&self, record: &PoisonRecord) -> Result<(), PortError> {
        self.port.quarantine(record).await
    }
}

impl Cellar for Deployed<S3Quarantine> {
    async fn poison(&self) -> Vec<[String; 5]> {
        let client = aws_sdk_s3::Client::new(&self.config);
        let listed = client.list_objects_v2().bucket(&self.name).send().await.unwrap();
        let mut all = Vec::new();
        for key in listed.contents().iter().filter_map(|object| object.key()) {
            let kept = client.get_object().bucket(&self.name).key(key).send().await.unwrap();
            let metadata = kept.metadata.unwrap();
            // The key is the function and the id, with slashes.
            let id = key.strip_prefix(&format!("{}/", metadata["function"])).unwrap().replacen('/', ":", 1);
            let data = kept.body.collect().await.unwrap().into_bytes();
            all.push(row_of(&id, &metadata["function"], &metadata["key"], &data, &metadata["reason"]));
        }
        all
    }
}
