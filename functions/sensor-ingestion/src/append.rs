//! Appending to a stream that may refuse: again what it refused, and in the order of each key.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use shared::ports::{PortError, ReadingStream, StreamRecord};

use crate::records::{Pending, Queue};

/// Most records in one call of the stream.
const CALL_RECORDS_MAX: usize = 500;
/// Most bytes in one call of the stream, keys included.
const CALL_BYTES_MAX: usize = 5 * 1024 * 1024;

/// Waits between four retries: 0.1, 0.2, 0.4 and 0.8 s, each longer by a random part of itself, so 3 s at most. A sensor
/// waits no longer for an answer, and the random part keeps retries of many requests apart.
pub const RETRIES: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(100)).with_factor(2.0).with_max_times(4).with_jitter();

/// Lets time pass: `tokio::time::sleep` in a composition root, nothing in a test.
pub trait Sleep: Send + Sync {
    /// Returns after the time.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;
}

impl<W: Fn(Duration) -> F + Send + Sync, F: Future<Output = ()> + Send> Sleep for W {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        self(time)
    }
}

/// Appends the queues side by side and each one in its order; returns the places of readings that did not get there.
///
/// A refused record is sent again, as often as there are `retries`, and the next one of its key only after it. A record that the stream refuses for what it
/// is ends its key: what follows would overtake it when the sensor sends all of it again.
pub async fn append(stream: &impl ReadingStream, sleep: &impl Sleep, retries: ExponentialBuilder, mut queues: Vec<Queue>) -> Vec<usize> {
    let mut lost = Vec::new();
    let mut waits = retries.build();
    loop {
        let (records, senders) = next_call(&mut queues);
        if records.is_empty() {
            return lost;
        }
        let mut answers = match stream.append(&records).await {
            Ok(answers) => answers,
            Err(error) => vec![Err(error); records.len()],
        };
        answers.resize(records.len(), Err(PortError::Unavailable("stream", "it gave no answer for a record".into())));
        let (mut busy, mut refused) = (None, None);
        for ((record, (number, indices)), answer) in records.into_iter().zip(senders).zip(answers) {
            let (Err(error), Some(queue)) = (answer, queues.get_mut(number)) else { continue };
            queue.push_front(Pending { record, indices });
            if error.retry() {
                busy = Some(error);
            } else {
                lost.extend(places(queue));
                refused = Some(error);
            }
        }
        if let Some(error) = refused {
            tracing::error!(%error, "the stream refused records for good");
        }
        let Some(error) = busy else { continue };
        let Some(wait) = waits.next() else {
            tracing::error!(%error, "the stream refused records until the last retry");
            lost.extend(queues.iter_mut().flat_map(places));
            return lost;
        };
        tracing::warn!(%error, "the stream refused records; they are sent again");
        sleep.sleep(wait).await;
    }
}

/// Empties the queue; gives the places of its readings.
fn places(queue: &mut Queue) -> impl Iterator<Item = usize> {
    queue.drain(..).flat_map(|pending| pending.indices)
}

/// Takes the first record of each queue for one call, with the queue's number and the places of its readings.
fn next_call(queues: &mut [Queue]) -> (Vec<StreamRecord>, Vec<(usize, Vec<usize>)>) {
    let (mut records, mut senders, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (number, queue) in queues.iter_mut().enumerate() {
        let Some(first) = queue.front() else { continue };
        bytes += first.record.key.len() + first.record.data.len();
        let full = bytes > CALL_BYTES_MAX || records.len() == CALL_RECORDS_MAX;
        if full && !records.is_empty() {
            break;
        }
        if let Some(Pending { record, indices }) = queue.pop_front() {
            records.push(record);
            senders.push((number, indices));
        }
    }
    (records, senders)
}
