//! Evidence for what may be wrong with the counts of a detector: log likelihood ratios against "nothing is wrong", summed
//! as Page's CUSUM (Biometrika 41, 1954), so that each holds what speaks for it since the time it may have begun.

use serde::{Deserialize, Serialize};

/// Evidence at which a fault is raised. Each unit is a factor e in likelihood; at 12, nothing
/// on 22 real detectors in 12 days passed, at 11 one odd day did.
pub(super) const RAISE: f32 = 12.0;
/// Evidence is not kept beyond this, so that a repair is seen soon.
const KEPT_MAX: f32 = RAISE + 3.0;

/// Share of vehicles counted by a detector that misses some: between 30 % and half missed. At more than 0.78 of the expected
/// counts the evidence falls: such differences are common between one fortnight and the next.
const UNDERCOUNT_RATIO: f32 = 0.6;
/// Ratio of counts to vehicles of one that counts some twice. At less than 1.32 the evidence falls.
const OVERCOUNT_RATIO: f32 = 1.7;
/// Share counted by one that misses vehicles in the dark only.
const BLIND_RATIO: f32 = 0.45;
/// Share counted by a dead one: not 0, for a splice may close now and then.
const STUCK_RATIO: f32 = 0.05;
/// Share counted by one that sees some of the vehicles, if few.
const FEW_RATIO: f32 = 0.25;
/// What a bin may add to one of the first three: a fault takes three bins at least.
const STEP_MAX: f32 = 4.0;
/// What a dark bin may add to blindness.
const STEP_BLIND_MAX: f32 = 1.5;
/// What a bin may add to stuck off: two empty bins in dense traffic are enough.
const STEP_STUCK_MAX: f32 = 7.5;
/// Zeros persist less than other deviations do, by this factor: traffic thins out, but seldom to nothing.
const STUCK_GAIN: f32 = 1.5;
/// What the quiet hours of one night may add to undercount, overcount and blindness: one night may be unusual.
const NIGHT_MAX: f32 = 7.0;

/// Share of bins with bursts that chatter is taken to have.
const BURST_SHARE: f32 = 0.15;
/// Mean size of a burst, vehicles in a bin.
const BURST_MEAN: f32 = 40.0;
/// What a burst may add: four are needed. Traffic makes three within hours on some days, as after an event.
const STEP_BURST_MAX: f32 = 3.5;

/// Evidence for one hypothesis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cusum {
    /// Log likelihood ratio, 0..=15.
    pub(super) score: f32,
    /// Bin at which it last left 0.
    pub(super) since: i64,
}

impl Cusum {
    fn add(&mut self, step: f32, bin: i64) {
        let score = (self.score + step).clamp(0.0, KEPT_MAX);
        if self.score <= 0.0 {
            self.since = bin;
        }
        self.score = score;
    }
}

/// What may be wrong with counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hypothesis {
    /// Vehicles are missed at all hours.
    Misses,
    /// Vehicles are counted more than once.
    Repeats,
    /// Vehicles are missed in the quiet hours, which are the dark ones.
    Blind,
    /// Nothing is seen.
    Stuck,
    /// There are bursts of counts.
    Bursts,
}

impl Hypothesis {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [Self::Stuck, Self::Misses, Self::Repeats, Self::Blind, Self::Bursts];

    /// Whether it makes for more counts than vehicles.
    pub(super) const fn is_upward(self) -> bool {
        matches!(self, Self::Repeats | Self::Bursts)
    }
}

/// Evidence for each hypothesis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Evidence {
    misses: Cusum,
    repeats: Cusum,
    blind: Cusum,
    stuck: Cusum,
    bursts: Cusum,
    /// Misses and repeats by the detector's own profile alone, whatever its companion says.
    pub(super) own: [Cusum; 2],
    /// What this night has added to misses, repeats and blindness.
    night: [f32; 3],
    /// Counts as multiples of what was expected, the last three bins.
    ratios: [f32; 3],
}

/// One count and what was expected of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    /// Number of the bin since the epoch.
    pub(super) bin: i64,
    /// Vehicles counted.
    pub(super) x: f32,
    /// Expected by the detector's profile and its peers, > 0.
    pub(super) by_profile: f32,
    /// Expected given its companion too, > 0; the same if it has none.
    pub(super) expected: f32,
    /// Size parameter of the scatter around `expected`.
    pub(super) size: f32,
    /// Size parameter of the scatter around `by_profile`.
    pub(super) size_by_profile: f32,
    /// By how much evidence has to be divided, because scatter persists.
    pub(super) persistence: f32,
    /// By how much it has to be divided, because others are off as well.
    pub(super) turbulence: f32,
    /// Whether the junction has little traffic at this hour.
    pub(super) quiet: bool,
}

impl Evidence {
    /// The evidence for a hypothesis.
    pub(super) const fn of(&self, hypothesis: Hypothesis) -> Cusum {
        match hypothesis {
            Hypothesis::Misses => self.misses,
            Hypothesis::Repeats => self.repeats,
            Hypothesis::Blind => self.blind,
            Hypothesis::Stuck => self.stuck,
            Hypothesis::Bursts => self.bursts,
        }
    }

    /// The greatest evidence for anything.
    pub(super) fn strongest(&self) -> f32 {
        Hypothesis::ALL.into_iter().map(|hypothesis| self.of(hypothesis).score).fold(0.0, f32::max)
    }

    /// The best explanation that is beyond [`RAISE`]. Nothing seen explains less than expected, too, and is preferred.
    pub(super) fn best(&self) -> Option<Hypothesis> {
        let strength = |hypothesis: Hypothesis| self.of(hypothesis).score + if hypothesis == Hypothesis::Stuck { 1.0 } else { 0.0 };
        let beyond = Hypothesis::ALL.into_iter().filter(|hypothesis| self.of(*hypothesis).score >= RAISE);
        // The first of equals.
        beyond.reduce(|best, other| if strength(other) > strength(best) { other } else { best })
    }

    /// Lets no evidence be more than this: something else explains it.
    pub(super) fn limit(&mut self, score: f32) {
        for cusum in [&mut self.misses, &mut self.repeats, &mut self.blind, &mut self.stuck, &mut self.bursts] {
            cusum.score = cusum.score.min(score);
        }
    }

    /// Takes up a count.
    pub(super) fn fold(&mut self, count: &Count) {
        let Count { bin, x, expected: m, size, .. } = *count;
        let divisor = count.persistence * count.turbulence;
        let step = |ratio: f32, divisor: f32, max: f32| (shift_ratio(x, m, size, ratio) / divisor).clamp(-max, max);
        let mut steps = [
            step(UNDERCOUNT_RATIO, divisor, STEP_MAX),
            step(OVERCOUNT_RATIO, divisor, STEP_MAX),
            if count.quiet { step(BLIND_RATIO, divisor, STEP_BLIND_MAX) } else { 0.0 },
        ];
        for (step, night) in steps.iter_mut().zip(&mut self.night) {
            if count.quiet {
                *step = step.min((NIGHT_MAX - *night).max(0.0));
                *night = (*night + *step).max(0.0);
            } else {
                *night = 0.0;
            }
        }
        for (cusum, step) in [&mut self.misses, &mut self.repeats, &mut self.blind].into_iter().zip(steps) {
            cusum.add(step, bin);
        }
        let stuck = step(STUCK_RATIO, (divisor / STUCK_GAIN).max(1.0), STEP_STUCK_MAX);
        // A few vehicles where there should be many are few, but not none.
        let is_none = shift_ratio(x, m, size, STUCK_RATIO) > shift_ratio(x, m, size, FEW_RATIO);
        self.stuck.add(if is_none { stuck } else { stuck.min(0.0) }, bin);
        self.bursts.add(self.burst(count), bin);
        self.ratios.rotate_left(1);
        if let Some(last) = self.ratios.last_mut() {
            *last = x / count.by_profile;
        }
        for (cusum, ratio) in self.own.iter_mut().zip([UNDERCOUNT_RATIO, OVERCOUNT_RATIO]) {
            let step = shift_ratio(x, count.by_profile, count.size_by_profile, ratio) / divisor;
            cusum.add(step.clamp(-STEP_MAX, STEP_MAX), bin);
        }
    }

    /// Evidence for a burst. A level that the bins before had too is not a burst but traffic.
    fn burst(&self, count: &Count) -> f32 {
        let [a, b, c] = self.ratios;
        let level = a.max(b).min(a.min(b).max(c)).max(1.0);
        let m = count.expected * level;
        let variance = m + m * m / count.size;
        let usual = -deviance(count.x, m, count.size) / 2.0 / count.turbulence - 0.5 * (std::f32::consts::TAU * (variance + 0.3)).ln();
        let burst = if count.x > m { -(count.x - m) / BURST_MEAN - BURST_MEAN.ln() } else { f32::NEG_INFINITY };
        (1.0 - BURST_SHARE + BURST_SHARE * (burst - usual).min(20.0).exp()).ln().min(STEP_BURST_MAX)
    }
}

/// Log likelihood ratio of a mean of `ratio * m` against `m` for a negative binomial count with this size parameter.
fn shift_ratio(x: f32, m: f32, size: f32, ratio: f32) -> f32 {
    x * ratio.ln() - (x + size) * ((size + ratio * m) / (size + m)).ln()
}

/// Deviance of a negative binomial count, >= 0.
pub(super) fn deviance(x: f32, m: f32, size: f32) -> f32 {
    let own = if x > 0.0 { x * (x / m).ln() } else { 0.0 };
    (2.0 * (own - (x + size) * ((x + size) / (m + size)).ln())).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bin: i64, x: f32) -> Count {
        Count {
            bin,
            x,
            by_profile: 40.0,
            expected: 40.0,
            size: 50.0,
            size_by_profile: 50.0,
            persistence: 2.0,
            turbulence: 1.0,
            quiet: false,
        }
    }

    fn after(bins: i64, x: impl Fn(i64) -> f32) -> Option<Hypothesis> {
        let mut evidence = Evidence::default();
        (0..bins).for_each(|bin| evidence.fold(&count(bin, x(bin))));
        evidence.best()
    }

    #[test]
    fn each_fault_is_found_and_called_by_its_name() {
        assert_eq!(after(2, |_| 0.0), Some(Hypothesis::Stuck));
        assert_eq!(after(24, |_| 20.0), Some(Hypothesis::Misses));
        assert_eq!(after(24, |_| 62.0), Some(Hypothesis::Repeats));
        assert_eq!(after(24, |bin| if bin % 3 == 0 { 120.0 } else { 40.0 }), Some(Hypothesis::Bursts));
    }

    #[test]
    fn what_traffic_does_is_no_fault() {
        for x in [34.0, 40.0, 50.0] {
            assert_eq!(after(960, |_| x), None, "{x}");
        }
        assert_eq!(after(48, |bin| if bin < 3 { 200.0 } else { 40.0 }), None, "one burst");
        assert_eq!(after(48, |bin| if bin % 16 == 8 { 200.0 } else { 40.0 }), None, "three in twelve hours");
    }

    #[test]
    fn one_night_is_not_enough() {
        let mut evidence = Evidence::default();
        (0..32).for_each(|bin| evidence.fold(&Count { quiet: true, ..count(bin, 10.0) }));
        assert!(evidence.misses.score <= NIGHT_MAX && evidence.best() == Some(Hypothesis::Stuck) || evidence.best().is_none());
    }

    #[test]
    fn the_ratio_is_that_of_the_distribution() {
        // Poisson limit: x ln r - (r - 1) m.
        let ratio = shift_ratio(7.0, 10.0, 1e6, 0.5);
        assert!((ratio - (7.0 * 0.5_f32.ln() + 5.0)).abs() < 0.05, "{ratio}");
        assert!(deviance(10.0, 10.0, 30.0) < 1e-3 && deviance(0.0, 10.0, 30.0) > 15.0);
    }
}
