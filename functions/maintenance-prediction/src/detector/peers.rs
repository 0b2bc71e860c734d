//! What the detectors of a junction say of each other: a factor common to all of them, and for each the companion that
//! sees the same traffic, such as the loop behind it in the lane.

use serde::{Deserialize, Serialize};

use super::evidence::Cusum;

/// Weight, in vehicles, of the belief that all is as usual against what the peers say.
const USUAL_WEIGHT: f32 = 3.0;
/// Log ratios scatter by this variance beyond Poisson's, so that no busy peer outweighs all others.
const PEER_OVERDISPERSION: f32 = 0.03;

/// Overdispersion by which counts are standardised to be compared.
const STANDARD_OVERDISPERSION: f32 = 0.02;
/// Standardised residuals count up to this.
const RESIDUAL_MAX: f32 = 6.0;
/// What is kept of older products at each new bin: about a week's worth.
const PRODUCTS_KEPT: f32 = 1.0 - 1.0 / 700.0;
/// Bins without correlation that a pair begins with.
const PRODUCTS_PRIOR: f32 = 60.0;
/// Least correlation of a companion: below it predicts worse than it costs.
const COMPANION_MIN: f32 = 0.35;
/// Share of a companion's variance that is taken as explained at most.
const EXPLAINED_MAX: f32 = 0.8;
/// Weight of the bin before in what a companion says: a vehicle may pass the two in different bins.
const BIN_BEFORE: f32 = 0.3;
/// Least expectation given a companion, as a share of that without.
const GIVEN_MIN: f32 = 0.2;

/// Evidence that a detector sees other traffic than usual, from which on it explains the same in one that shares its traffic.
const EXPLAINS_RELATED: f32 = 2.5;
/// The same for any other detector of the junction.
const EXPLAINS_ANY: f32 = 7.0;
/// Detectors that deviate at the same time explain each other if they are so many, and a third of those that could.
const DEVIATING_MIN: usize = 2;
/// Correlation from which on two detectors share traffic.
const RELATED_MIN: f32 = 0.1;
/// Deviations that began within so many bins of each other may have one cause: three hours.
const SAME_CAUSE_BINS: i64 = 12;

/// The log of the factor common to all, by the weighted median of (log ratio, vehicles expected).
///
/// The median, for a faulty detector must not move the others; with a weight on 0, for two peers are no majority.
pub(super) fn common_factor(peers: impl Iterator<Item = (f32, f32)>) -> f32 {
    let weight = |expected: f32| expected / (1.0 + PEER_OVERDISPERSION * expected);
    let mut ratios: Vec<(f32, f32)> = peers.map(|(ratio, expected)| (ratio, weight(expected))).collect();
    ratios.push((0.0, USUAL_WEIGHT));
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = ratios.iter().map(|(_, weight)| weight).sum::<f32>() / 2.0;
    let mut below = 0.0;
    for (ratio, weight) in ratios {
        below += weight;
        if below >= half {
            return ratio;
        }
    }
    0.0
}

fn scatter(m: f32) -> f32 {
    (m + STANDARD_OVERDISPERSION * m * m + 0.25).sqrt()
}

/// The residual of a count in units of its usual scatter.
pub(super) fn standardised(x: f32, m: f32) -> f32 {
    ((x - m) / scatter(m)).clamp(-RESIDUAL_MAX, RESIDUAL_MAX)
}

/// How the residuals of the detectors go together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Companions {
    /// Discounted sums of products of residuals, the lower triangle with its diagonal row by row.
    products: Vec<f32>,
}

/// What the companion of a detector says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Companion {
    /// Its place among the detectors.
    pub(super) index: usize,
    /// Residual of the detector for each unit of residual of the companion.
    slope: f32,
    /// Share of the detector's variance that it explains.
    pub(super) explained: f32,
}

impl Companion {
    /// The count to be expected instead of `m`, given the companion's residuals of this bin and the one before.
    pub(super) fn given(&self, m: f32, residual: f32, before: f32) -> f32 {
        let residual = BIN_BEFORE * before + (1.0 - BIN_BEFORE) * residual;
        (m + self.slope * residual * scatter(m)).max(GIVEN_MIN * m)
    }
}

impl Companions {
    const fn place(i: usize, j: usize) -> usize {
        let (low, high) = if i < j { (i, j) } else { (j, i) };
        high * (high + 1) / 2 + low
    }

    fn product(&self, i: usize, j: usize) -> f32 {
        self.products.get(Self::place(i, j)).copied().unwrap_or(0.0)
    }

    fn correlation(&self, i: usize, j: usize) -> f32 {
        self.product(i, j) / ((self.product(i, i) * self.product(j, j)).sqrt() + PRODUCTS_PRIOR)
    }

    /// The detector that says most of detector `i` among the first `count`.
    pub(super) fn of(&self, i: usize, count: usize) -> Option<Companion> {
        let others = (0..count).filter(|j| *j != i).map(|j| (self.correlation(i, j), j));
        let (correlation, index) = others.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(correlation, _)| *correlation > COMPANION_MIN)?;
        let slope = self.product(i, index) / (self.product(index, index) + PRODUCTS_PRIOR);
        Some(Companion { index, slope, explained: (correlation * correlation).min(EXPLAINED_MAX) })
    }

    /// Learns from the residuals of a bin; none of those that cannot be trusted.
    pub(super) fn learn(&mut self, residuals: &[Option<f32>]) {
        self.products.resize(Self::place(0, residuals.len()), 0.0);
        for (i, a) in residuals.iter().enumerate() {
            for (j, b) in residuals.iter().enumerate().take(i + 1) {
                if let (Some(a), Some(b), Some(product)) = (a, b, self.products.get_mut(Self::place(i, j))) {
                    *product = *product * PRODUCTS_KEPT + a * b;
                }
            }
        }
    }

    /// Leaves detector `i` of `count` out; those after it move up.
    pub(super) fn remove(&mut self, i: usize, count: usize) {
        let others = |end: usize| (0..end).filter(move |other| *other != i);
        let products = others(count).flat_map(|high| others(high + 1).map(move |low| (high, low)));
        self.products = products.map(|(high, low)| self.product(high, low)).collect();
    }

    /// Forgets what is known of detector `i`.
    pub(super) fn forget(&mut self, i: usize, count: usize) {
        for j in 0..count {
            if let Some(product) = self.products.get_mut(Self::place(i, j)) {
                *product = 0.0;
            }
        }
    }

    /// Whether what happened to detector `i` from bin `since` on happened to others too: then it is traffic, and no fault.
    ///
    /// `own` has for each detector the evidence that it deviates from its own profile; none of those in alarm.
    pub(super) fn explain(&self, i: usize, since: i64, own: &[Option<[Cusum; 2]>]) -> bool {
        let (mut deviating, mut others) = (0, 0);
        for (j, cusums) in own.iter().enumerate().filter(|(j, _)| *j != i) {
            let Some(cusums) = cusums else { continue };
            let same_time = cusums.iter().filter(|cusum| (cusum.since - since).abs() <= SAME_CAUSE_BINS);
            let evidence = same_time.map(|cusum| cusum.score).fold(0.0, f32::max);
            if evidence >= EXPLAINS_ANY || evidence >= EXPLAINS_RELATED && self.correlation(i, j) >= RELATED_MIN {
                return true;
            }
            others += 1;
            deviating += usize::from(evidence >= EXPLAINS_RELATED);
        }
        deviating >= DEVIATING_MIN.max(others / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_faulty_peer_does_not_move_the_common_factor() {
        let peers = |faulty: f32| common_factor([0.1, 0.12, 0.09, 0.11, faulty].into_iter().map(|ratio| (ratio, 100.0)));
        assert!((peers(-3.0) - 0.1).abs() < 0.021 && (peers(3.0) - 0.1).abs() < 0.021);
        assert!((common_factor(std::iter::empty())).abs() < f32::EPSILON);
    }

    #[test]
    fn detectors_that_see_the_same_vehicles_are_companions() {
        let mut companions = Companions::default();
        for bin in 0..400_i16 {
            let wave = if bin % 2 == 0 { 1.5 } else { -1.5 };
            let other = if (bin / 2) % 2 == 0 { 1.0 } else { -1.0 };
            companions.learn(&[Some(wave), Some(other), Some(wave)]);
        }
        assert_eq!(companions.of(0, 3).map(|companion| companion.index), Some(2));
        assert_eq!(companions.of(1, 3), None);
        let companion = companions.of(0, 3).unwrap();
        assert!(companion.given(20.0, -4.0, -4.0) < 10.0);
        companions.forget(2, 3);
        assert_eq!(companions.of(0, 3), None);
    }

    #[test]
    fn what_began_elsewhere_at_the_same_time_is_traffic() {
        let companions = Companions::default();
        let deviating = |score, since| Some([Cusum { score, since }, Cusum::default()]);
        assert!(companions.explain(0, 100, &[None, deviating(9.0, 95)]));
        assert!(!companions.explain(0, 100, &[None, deviating(9.0, 40)]), "another time");
        assert!(!companions.explain(0, 100, &[deviating(9.0, 100), None]), "itself, and one in alarm");
    }
}
