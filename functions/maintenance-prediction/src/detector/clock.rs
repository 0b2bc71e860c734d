//! The junction's time: whose clock is believed.
//!
//! A reading may be ahead of the newest believed one by a little. One that is further ahead waits until another source
//! agrees, or until nobody else has said anything for as long as they may be silent; so one clock that jumps neither closes
//! bins nor makes the others late. If the time that is believed turns out to be that of one source alone, two readings
//! that lie more than a day behind it set it back.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How far ahead a reading is believed at once: this, or two of its periods.
const AHEAD_MAX_MS: i64 = 120_000;
/// Further behind than this is no backlog: ingestion refuses readings that are older than a day.
const BEHIND_MAX_MS: i64 = 24 * 3_600_000;
/// Readings after which a single source is believed, if nobody contradicts.
const CONFIRMED_BY: u8 = 3;
/// So many readings that were not believed are known when they come again.
const REMEMBERED_MAX: usize = 32;

/// Whose clock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Source {
    /// That of the detector at this place.
    Detector(usize),
    /// That of the controller.
    Controller,
}

/// The time of a junction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clock {
    now: Option<i64>,
    waiting: Option<Waiting>,
    /// When the junction was heard again after a gap of all its sources.
    resumed: Option<i64>,
    /// A reading of long ago.
    behind: Option<(Source, i64)>,
    /// The newest readings that were not believed: when they come again, nobody is to agree with them.
    disbelieved: VecDeque<(Source, i64)>,
}

/// What was stored of it before readings that were not believed were remembered.
#[derive(Deserialize)]
pub(super) struct ClockBefore {
    now: Option<i64>,
    waiting: Option<Waiting>,
    resumed: Option<i64>,
    behind: Option<(Source, i64)>,
}

impl From<ClockBefore> for Clock {
    fn from(ClockBefore { now, waiting, resumed, behind }: ClockBefore) -> Self {
        Self { now, waiting, resumed, behind, disbelieved: VecDeque::new() }
    }
}

/// A reading whose time is not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    source: Source,
    first: i64,
    newest: i64,
    times: u8,
}

/// What to do with a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// Its time is believed.
    Believed,
    /// Its time is believed, and so is that of the reading that waited, of this source.
    Agreed(Source, i64),
    /// It waits already.
    Known,
    /// It is not believed yet, and its measures are lost.
    Waits,
    /// It is believed, and the time of the junction was wrong.
    SetBack,
}

impl Clock {
    /// The newest believed time.
    pub(super) const fn now(&self) -> Option<i64> {
        self.now
    }

    /// From when on silence counts of a source that was heard then: while nobody was heard, nobody was missed.
    pub(super) fn missed_from(&self, heard: i64) -> i64 {
        self.resumed.map_or(heard, |resumed| heard.max(resumed))
    }

    /// Forgets which reading waits: the places of the detectors change.
    pub(super) fn forget_waiting(&mut self) {
        (self.waiting, self.behind) = (None, None);
        self.disbelieved.clear();
    }

    /// Moves on to a believed time.
    pub(super) fn advance(&mut self, at: i64) {
        self.now = self.now.max(Some(at));
    }

    /// Judges the time of a reading, given how long the others may be silent and the newest time of each source.
    pub(super) fn judge(
        &mut self,
        source: Source,
        at: i64,
        period_ms: i64,
        patience_ms: i64,
        newest: impl Iterator<Item = Option<i64>>,
    ) -> Belief {
        let Some(now) = self.now else { return Belief::Believed };
        if self.disbelieved.contains(&(source, at)) {
            return Belief::Known;
        }
        let limit = AHEAD_MAX_MS.max(2 * period_ms);
        if at.saturating_sub(now) > limit {
            return self.wait(source, at, limit, patience_ms);
        }
        if now.saturating_sub(at) > BEHIND_MAX_MS {
            let leaders = newest.flatten().filter(|newest| now.saturating_sub(*newest) <= BEHIND_MAX_MS).count();
            match self.behind {
                Some(_) if leaders <= 1 => {
                    (self.now, self.waiting, self.resumed, self.behind) = (Some(at), None, Some(at), None);
                    return Belief::SetBack;
                }
                _ => {}
            }
            self.behind = Some((source, at));
            return self.disbelieve(source, at);
        }
        (self.waiting, self.behind) = (None, None);
        Belief::Believed
    }

    fn wait(&mut self, source: Source, at: i64, limit: i64, patience_ms: i64) -> Belief {
        let waiting = match self.waiting {
            Some(waiting) if waiting.source == source => {
                if at <= waiting.newest {
                    return Belief::Known;
                }
                // A clock that jumps about is not a clock.
                let steady = at - waiting.newest <= limit;
                let first = if steady { waiting.first } else { at };
                let times = if steady { waiting.times.saturating_add(1) } else { 1 };
                Waiting { source, first, newest: at, times }
            }
            Some(waiting) if (waiting.newest - at).abs() <= limit => {
                (self.waiting, self.resumed) = (None, Some(at));
                return Belief::Agreed(waiting.source, waiting.newest);
            }
            _ => Waiting { source, first: at, newest: at, times: 1 },
        };
        if waiting.times >= CONFIRMED_BY && waiting.newest - waiting.first >= patience_ms {
            (self.waiting, self.resumed) = (None, Some(at));
            return Belief::Believed;
        }
        self.waiting = Some(waiting);
        self.disbelieve(source, at)
    }

    fn disbelieve(&mut self, source: Source, at: i64) -> Belief {
        if self.disbelieved.len() >= REMEMBERED_MAX {
            self.disbelieved.pop_front();
        }
        self.disbelieved.push_back((source, at));
        Belief::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn clock() -> Clock {
        Clock { now: Some(0), ..Clock::default() }
    }

    fn judge(clock: &mut Clock, detector: usize, at: i64) -> Belief {
        clock.judge(Source::Detector(detector), at, 5_000, 5 * MINUTE, [Some(0), Some(0)].into_iter())
    }

    #[test]
    fn a_time_far_ahead_is_believed_when_another_agrees() {
        let mut clock = clock();
        assert_eq!(judge(&mut clock, 0, MINUTE), Belief::Believed);
        assert_eq!(judge(&mut clock, 0, 600 * MINUTE), Belief::Waits);
        assert_eq!(judge(&mut clock, 0, 600 * MINUTE), Belief::Known);
        assert_eq!(judge(&mut clock, 1, 9_000 * MINUTE), Belief::Waits, "that is another time");
        assert_eq!(judge(&mut clock, 0, 9_000 * MINUTE), Belief::Agreed(Source::Detector(1), 9_000 * MINUTE));
    }

    #[test]
    fn one_that_was_not_believed_is_not_believed_when_it_comes_again_either() {
        let mut clock = clock();
        assert_eq!(judge(&mut clock, 0, 600 * MINUTE), Belief::Waits);
        assert_eq!(judge(&mut clock, 1, MINUTE), Belief::Believed);
        let before = clock.clone();
        assert_eq!(judge(&mut clock, 0, 600 * MINUTE), Belief::Known);
        assert_eq!(clock, before);
        assert_eq!(judge(&mut clock, 2, 600 * MINUTE), Belief::Waits, "nobody has agreed with it");
    }

    #[test]
    fn one_that_is_contradicted_is_never_believed() {
        let mut clock = clock();
        for minute in 1..1_000 {
            assert_eq!(judge(&mut clock, 0, (minute + 600) * MINUTE), Belief::Waits);
            assert_eq!(judge(&mut clock, 1, minute * MINUTE), Belief::Believed);
            clock.advance(minute * MINUTE);
        }
    }

    #[test]
    fn one_that_nobody_contradicts_is_believed_after_a_while() {
        let mut clock = clock();
        let waited = (0..100).take_while(|minute| judge(&mut clock, 0, (minute + 600) * MINUTE) == Belief::Waits).count();
        assert_eq!(waited, 5);
    }

    #[test]
    fn a_time_that_one_source_has_alone_is_set_back_by_two_readings() {
        let day = 1_440 * MINUTE;
        let mut clock = Clock { now: Some(900 * day), ..Clock::default() };
        let newest = || [Some(900 * day), Some(0), None].into_iter();
        assert_eq!(clock.judge(Source::Detector(1), 10, 5_000, MINUTE, newest()), Belief::Waits);
        assert_eq!(clock.judge(Source::Detector(1), 10, 5_000, MINUTE, newest()), Belief::Known);
        assert_eq!(clock.judge(Source::Detector(1), 20, 5_000, MINUTE, newest()), Belief::SetBack);
        assert_eq!(clock.now(), Some(20));
        let agreed = || [Some(900 * day), Some(900 * day), None].into_iter();
        let mut clock = Clock { now: Some(900 * day), ..Clock::default() };
        for at in 0..10 {
            assert_eq!(clock.judge(Source::Detector(2), at, 5_000, MINUTE, agreed()), Belief::Waits);
        }
    }
}
