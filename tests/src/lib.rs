//! What several tests share: a client of the API, a junction with its readings, and a way to wait for what must come.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

mod client;
pub mod junction;

use std::time::{Duration, Instant};

pub use client::{Answer, Client};

/// How long anything is waited for: no figure of merit, only an end for a test that would hang.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Asks until the answer is there, and gives it.
///
/// # Panics
/// If it is not there at the deadline; `what` says what was missed.
#[expect(clippy::disallowed_methods, reason = "a test that waits in vain has to end")]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: not there after {DEADLINE:?}");
        std::thread::yield_now();
    }
}
