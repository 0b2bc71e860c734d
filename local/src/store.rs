//! The embedded store: one redb file that holds the stream, the configuration, the rows of junctions, the condition of
//! assets, their alerts and the logs.
//!
//! Writes of all callers go through one writer that commits them in groups, in the order in which they were asked for.
//! Stream appends, configuration, assets and acknowledgements are on disk when they are answered. Rows of junctions,
//! decisions, conditions, alerts and checkpoints are visible when they are answered and on disk with the next durable
//! commit: after a crash the stream gives them again, and since commits keep their order, a checkpoint is never on disk
//! without the state that it covers.

mod alerts;
mod assets;
mod conditions;
mod logs;
mod review;
mod rows;
mod shards;
mod streams;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use shared::ports::{Clock, PortError, StoredIntersection};
use tokio::sync::watch;

pub use self::logs::{FailedBatch, Quarantined};
use self::shards::Ends;
pub use self::shards::{End, ReshardError};
use self::writer::{Durability, Writer};
use crate::stream::SHARDS_MAX;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "greenwave.redb";

/// Changes where a table means something else; a table that is missing is made. Files of version 1 are brought up to date.
const FORMAT_VERSION: u64 = 2;
/// Memory for pages of the file; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another part of this one) has it open.
    #[error("{0} is in use by another process: stop that one or choose another data directory")]
    InUse(PathBuf),
    /// It was written by another version of Greenwave.
    #[error("{path} has format version {found}, this program reads versions 1 to {FORMAT_VERSION}: choose another data directory")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The directory or file cannot be used.
    #[error("{0} cannot be opened: {1}")]
    Unusable(PathBuf, String),
}

/// The embedded store. Clones share it; the file is released when the last one is gone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Writer,
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    ends: Arc<Mutex<Ends>>,
    bounds: Arc<logs::Bounds>,
    /// Decoded configuration; a row's tag says whether its entry still holds.
    decoded: Mutex<HashMap<String, StoredIntersection>>,
}

impl Store {
    /// Opens the store in a directory and makes both if needed; a new one gets so many shards (1 to 64), an existing one
    /// keeps its own.
    ///
    /// After a crash this walks the whole file once.
    ///
    /// # Errors
    /// [`OpenError`]; its text tells what to do.
    pub fn open(directory: &Path, shards: u16, clock: impl Clock + 'static) -> Result<Self, OpenError> {
        let path = directory.join(FILE_NAME);
        let unusable = |error: &dyn std::error::Error| OpenError::Unusable(path.clone(), error.to_string());
        std::fs::create_dir_all(directory).map_err(|error| unusable(&error))?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.clone()),
            other => unusable(&other),
        })?;
        Self::over(database, &path, shards, Arc::new(clock), Writer::thread)
    }

    /// A store in memory that does each operation in the task that asks for it: for tests that must not depend on threads.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] if memory runs out.
    pub fn in_memory(shards: u16, clock: impl Clock + 'static) -> Result<Self, OpenError> {
        let path = PathBuf::from(":memory:");
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(redb::backends::InMemoryBackend::new());
        let database = database.map_err(|error| OpenError::Unusable(path.clone(), error.to_string()))?;
        Self::over(database, &path, shards, Arc::new(clock), |database| Ok(Writer::inline(database)))
    }

    fn over(
        database: Database,
        path: &Path,
        shards: u16,
        clock: Arc<dyn Clock>,
        writer: impl FnOnce(Arc<Database>) -> std::io::Result<Writer>,
    ) -> Result<Self, OpenError> {
        let ends = prepare(&database, shards.clamp(1, SHARDS_MAX)).map_err(|error| match error {
            Prepare::Format(found) => OpenError::Format { path: path.to_owned(), found },
            Prepare::Redb(error) => OpenError::Unusable(path.to_owned(), error.to_string()),
        })?;
        let database = Arc::new(database);
        let writer = writer(Arc::clone(&database)).map_err(|error| OpenError::Unusable(path.to_owned(), error.to_string()))?;
        let ends = Arc::new(Mutex::new(ends.into_iter().map(|(shard, end)| (shard, watch::Sender::new(end))).collect()));
        Ok(Self(Arc::new(Inner { writer, database, clock, ends, bounds: Arc::default(), decoded: Mutex::default() })))
    }

    /// Puts everything that was answered so far on disk.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if the disk does not take it.
    pub async fn flush(&self) -> Result<(), PortError> {
        self.write(Durability::Disk, |_| Ok(()), |()| ()).await
    }

    fn read(&self) -> Result<ReadTransaction, PortError> {
        self.0.database.begin_read().map_err(unavailable)
    }

    /// Does `work` in the transaction of the next group; `then` runs right after the commit, whether the caller still
    /// waits or not.
    async fn write<T, U>(
        &self,
        durability: Durability,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, PortError>
    where
        T: Send + 'static,
        U: Send + 'static,
    {
        self.0.writer.run(durability, work, then).await
    }
}

enum Prepare {
    Format(u64),
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Prepare {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

/// Checks the format, makes what is missing and answers the end of each shard.
fn prepare(database: &Database, shards: u16) -> Result<BTreeMap<u16, End>, Prepare> {
    let transaction = database.begin_write()?;
    let found = transaction.open_table(META)?.get("format_version")?.map(|version| version.value());
    if let Some(found) = found.filter(|found| !(1..=FORMAT_VERSION).contains(found)) {
        return Err(Prepare::Format(found));
    }
    transaction.open_table(META)?.insert("format_version", FORMAT_VERSION)?;
    rows::create_tables(&transaction)?;
    assets::create_tables(&transaction)?;
    conditions::create_tables(&transaction)?;
    alerts::create_tables(&transaction)?;
    logs::create_tables(&transaction)?;
    review::create_tables(&transaction)?;
    streams::create_tables(&transaction)?;
    let ends = shards::prepare(&transaction, found, shards)?;
    transaction.commit()?;
    Ok(ends)
}

fn unavailable(error: impl std::fmt::Display) -> PortError {
    PortError::Unavailable("the embedded store", error.to_string())
}

fn unusable(error: impl std::fmt::Display) -> PortError {
    PortError::Unusable("the embedded store", error.to_string())
}
