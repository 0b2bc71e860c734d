//! Time as the local host knows it: an instant and a way to wait.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shared::ports::Clock;
use shared::units::Timestamp;

/// A clock that can also be waited on, so that a test drives both.
pub trait Time: Clock + Clone + 'static {
    /// Waits for so many milliseconds; not at all if the number is not positive.
    fn sleep(&self, millis: i64) -> impl Future<Output = ()> + Send;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the local host reads the clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Time for SystemClock {
    async fn sleep(&self, millis: i64) {
        tokio::time::sleep(Duration::from_millis(u64::try_from(millis).unwrap_or_default())).await;
    }
}
