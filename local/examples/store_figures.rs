//! Measures the embedded store and the way of a record to its function; prints the figures that the documents quote.
//!
//! `cargo run --release -p greenwave --example store_figures [directory]`

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use aws_lambda_events::event::kinesis::KinesisEvent;
use aws_lambda_events::event::streams::KinesisEventResponse;
use greenwave::clock::SystemClock;
use greenwave::mapping::Settings;
use greenwave::poller::{Consumer, Poller};
use greenwave::store::Store;
use shared::ids::IntersectionId;
use shared::plan::{PlanSource, PublishedPlan, Reason};
use shared::ports::{JunctionRow, JunctionStore, PlanReader, ReadingStream, StreamRecord};
use shared::units::Timestamp;
use tokio::time::Instant;

/// 500 readings of a detector in JSON, as one record.
const RECORD_BYTES: usize = 500 * 130;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    let directory = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("greenwave-figures"), PathBuf::from);
    let store = Store::open(&directory, 4, SystemClock)?;
    appends(&store, "append, 65 kB, 1 caller", 1, 300, RECORD_BYTES).await?;
    appends(&store, "append, 65 kB, 32 callers", 32, 50, RECORD_BYTES).await?;
    appends(&store, "append, 2 kB, 1 caller", 1, 300, 2_000).await?;
    appends(&store, "append, 2 kB, 32 callers", 32, 50, 2_000).await?;
    appends(&store, "append, 2 kB, 256 callers", 256, 20, 2_000).await?;
    rows(&store).await?;
    delivery(&store).await?;
    Ok(())
}

fn report(what: &str, mut latencies: Vec<Duration>, elapsed: Duration) -> Outcome {
    latencies.sort();
    let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or_default();
    let per_second = u32::try_from(latencies.len()).map(f64::from).unwrap_or_default() / elapsed.as_secs_f64();
    writeln!(std::io::stdout(), "{what:30} {per_second:9.0}/s   p50 {:9.1?}   p99 {:9.1?}", at(50), at(99))?;
    Ok(())
}

async fn appends(store: &Store, what: &str, callers: usize, each: usize, bytes: usize) -> Outcome {
    let (begun, mut tasks) = (Instant::now(), tokio::task::JoinSet::new());
    for caller in 0..callers {
        let store = store.clone();
        tasks.spawn(async move {
            let record = [StreamRecord { key: format!("J{caller}"), data: vec![b'x'; bytes] }];
            let mut latencies = Vec::new();
            for _ in 0..each {
                let begun = Instant::now();
                if store.append(&record).await.is_ok() {
                    latencies.push(begun.elapsed());
                }
            }
            latencies
        });
    }
    report(what, tasks.join_all().await.concat(), begun.elapsed())
}

async fn rows(store: &Store) -> Outcome {
    let id = IntersectionId::try_from("J1")?;
    let as_of = Timestamp::from_millis(0);
    let reason = Reason { code: "queue_pressure".into(), text: "the longest queues".into() };
    let plan = PublishedPlan {
        intersection_id: id.clone(),
        revision: 1,
        as_of,
        valid_until: as_of,
        source: PlanSource::Adaptive,
        stages: Vec::new(),
        reason,
    };
    let mut version = store.load(&id).await?.map_or(0, |row| row.version);
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    for _ in 0..2_000 {
        version += 1;
        let begun = Instant::now();
        store.save(&JunctionRow { version, plan: plan.clone(), state: vec![1; 4_000] }).await?;
        writes.push(begun.elapsed());
    }
    report("save of a 4 kB row", writes, begun.elapsed())?;
    let begun = Instant::now();
    for _ in 0..20_000 {
        let begun = Instant::now();
        store.plan(&id).await?;
        reads.push(begun.elapsed());
    }
    report("read of a plan", reads, begun.elapsed())
}

async fn delivery(store: &Store) -> Outcome {
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let function = move |event: KinesisEvent| {
        let live = event.records.iter().any(|record| record.kinesis.partition_key == "live");
        let _ = if live { called.send(()) } else { Ok(()) };
        async { Ok::<_, String>(KinesisEventResponse::default()) }
    };
    let behind = store.lag("figures")?;
    let begun = Instant::now();
    let consumer = Consumer { name: "figures", settings: Settings::default(), timeout_ms: 3_000 };
    let poller = Poller::start(store, consumer, function, SystemClock).await?;
    while store.lag("figures")? > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let per_second = u32::try_from(behind).map(f64::from)? / begun.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{:30} {per_second:9.0}/s", "records while catching up")?;
    let (mut latencies, begun) = (Vec::new(), Instant::now());
    for _ in 0..300 {
        let begun = Instant::now();
        store.append(&[StreamRecord { key: "live".into(), data: vec![b'x'; 2_000] }]).await?;
        calls.recv().await;
        latencies.push(begun.elapsed());
    }
    report("from append to the function", latencies, begun.elapsed())?;
    poller.stop().await;
    Ok(())
}
