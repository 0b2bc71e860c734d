//! The one writer: takes what waits, does it in one transaction, commits, answers all.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, WriteTransaction};
use shared::ports::PortError;
use tokio::sync::oneshot;

use super::unavailable;

/// Operations that wait at most; one more is refused as unavailable.
const QUEUE_MAX: usize = 4096;
/// Operations of one transaction.
const GROUP_MAX: usize = 512;
/// Commits in a row that may wait for a durable one: also what redb keeps in memory and cannot reuse.
const UNFLUSHED_MAX: u32 = 256;
/// Idle time after which what is not on disk yet is put there.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// What an answer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// It is on disk.
    Disk,
    /// Readers see it; it goes to disk with the next durable commit, not later than anything asked for after it.
    Ride,
}

trait Operation: Send {
    fn durability(&self) -> Durability;
    fn apply(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error>;
    fn answer(self: Box<Self>, committed: Result<(), PortError>);
}

struct Queued<W, N, T, U> {
    durability: Durability,
    work: Option<W>,
    then: N,
    done: Option<T>,
    reply: oneshot::Sender<Result<U, PortError>>,
}

impl<W, N, T, U> Operation for Queued<W, N, T, U>
where
    W: FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send,
    N: FnOnce(T) -> U + Send,
    T: Send,
    U: Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn apply(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        self.done = self.work.take().map(|work| work(transaction)).transpose()?;
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), PortError>) {
        let Self { then, done, reply, .. } = *self;
        let answer = committed.and_then(|()| done.map(then).ok_or_else(|| unavailable("another write of the same commit failed")));
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }
}

/// The way into the store for all writes.
pub(super) struct Writer(Way);

enum Way {
    Thread { queue: Option<SyncSender<Box<dyn Operation>>>, thread: Option<JoinHandle<()>> },
    Inline(Arc<Database>),
}

impl Writer {
    /// A thread of its own that commits in groups; it ends, with all on disk, when the writer is dropped.
    pub(super) fn thread(database: Arc<Database>) -> std::io::Result<Self> {
        let (queue, operations) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("greenwave-store".into()).spawn(move || serve(&database, &operations))?;
        Ok(Self(Way::Thread { queue: Some(queue), thread: Some(thread) }))
    }

    /// Each operation in the task that asks for it.
    pub(super) fn inline(database: Arc<Database>) -> Self {
        Self(Way::Inline(database))
    }

    pub(super) async fn run<T, U>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, PortError>
    where
        T: Send + 'static,
        U: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let operation = Box::new(Queued { durability, work: Some(work), then, done: None, reply });
        match &self.0 {
            Way::Inline(database) => commit(database, vec![operation], true),
            Way::Thread { queue, .. } => {
                let sent = queue.as_ref().map(|queue| queue.try_send(operation));
                match sent {
                    Some(Ok(())) => {}
                    Some(Err(TrySendError::Full(_))) => return Err(unavailable("too many writes wait")),
                    Some(Err(TrySendError::Disconnected(_))) | None => return Err(unavailable("its writer has ended")),
                }
            }
        }
        answer.await.map_err(|_| unavailable("its writer has ended"))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Way::Thread { queue, thread } = &mut self.0 {
            drop(queue.take());
            if let Some(Err(_)) = thread.take().map(JoinHandle::join) {
                tracing::error!("the store's writer panicked: what was not on disk yet is lost and will be replayed");
            }
        }
    }
}

fn serve(database: &Database, operations: &Receiver<Box<dyn Operation>>) {
    let mut unflushed = 0;
    loop {
        let first = if unflushed == 0 {
            operations.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            operations.recv_timeout(FLUSH_AFTER)
        };
        let (group, ended): (Vec<_>, bool) = match first {
            Ok(first) => (std::iter::once(first).chain(operations.try_iter().take(GROUP_MAX - 1)).collect(), false),
            Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
            Err(RecvTimeoutError::Disconnected) => (Vec::new(), true),
        };
        let durable = group.is_empty() || unflushed >= UNFLUSHED_MAX || group.iter().any(|o| o.durability() == Durability::Disk);
        if !(ended && unflushed == 0) {
            commit(database, group, durable);
        }
        unflushed = if durable { 0 } else { unflushed + 1 };
        if ended {
            return;
        }
    }
}

fn commit(database: &Database, mut group: Vec<Box<dyn Operation>>, durable: bool) {
    let committed = try_commit(database, &mut group, durable).map_err(unavailable);
    if let Err(error) = &committed {
        tracing::error!(%error, operations = group.len(), "a commit failed");
    }
    for operation in group {
        operation.answer(committed.clone());
    }
}

fn try_commit(database: &Database, group: &mut [Box<dyn Operation>], durable: bool) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    if !durable {
        transaction.set_durability(redb::Durability::None)?;
    }
    for operation in group {
        operation.apply(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}
