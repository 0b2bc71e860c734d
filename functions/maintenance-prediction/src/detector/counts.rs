//! The counts of a bin against what was to be expected of them.

use serde::{Deserialize, Serialize};
use shared::asset::Fault;

use super::dispersion::Dispersion;
use super::evidence::{Count, Cusum, Evidence, Hypothesis, RAISE, deviance};
use super::peers::{Companion, Companions, common_factor, standardised};
use super::profile::{Profile, Slot};

/// Least count that is expected of a bin: an hour that was always empty may see a vehicle.
const EXPECTED_MIN: f32 = 0.05;
/// Variance of weekends' means beyond the learned one: Saturdays and Sundays share a profile.
const WEEKEND_OVERDISPERSION: f32 = 0.01;
/// Days of a slot are worth so many, for its neighbours smooth it.
const SMOOTHED_DAYS: f32 = 1.5;
/// Hours with less than this share of the junction's mean are quiet.
const QUIET_SHARE: f32 = 0.5;
/// What is kept of the last hour at each bin.
const HOUR_KEPT: f32 = 0.5;
/// What is kept of the last six hours at each bin.
const LEVEL_KEPT: f32 = 0.96;

/// Deviances count up to this in the turbulence of a junction, as one of so many usual ones.
const SURPRISE_MAX: f32 = 9.0;
const USUAL_PEERS: f32 = 3.0;

/// Evidence of the detector by itself that is needed next to that given its companion: else the companion is at fault.
const OWN_MIN: f32 = 2.0;
/// Evidence that is kept when traffic explains what happened, as a share of [`RAISE`].
const EXPLAINED_KEPT: f32 = 0.3;
/// Evidence from which on the profile learns slowly, as a share of [`RAISE`], and how slowly.
const SUSPECTED: f32 = 0.35;
const SUSPECTED_GAIN: f32 = 0.2;
/// A shift whose evidence grew for longer than this many bins came slowly: 36 hours.
const DRIFT_BINS: i64 = 144;
/// After this many bins in a fault of counts the new level is taken for the truth: 14 days. A lane may have been closed for
/// good, and nobody would learn of the next fault.
const RELEARN_BINS: i64 = 14 * 96;

/// What is known of the counts of one detector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Traffic {
    pub(super) profile: Profile,
    dispersion: Dispersion,
    pub(super) evidence: Evidence,
    /// Counted and expected by profile over the last hour.
    hour: (f32, f32),
    /// Counted and expected over the last six hours.
    level: (f32, f32),
    /// Mean deviance over the last hour.
    surprise: f32,
    /// Standardised residual of the bin before.
    residual: f32,
    verdict: Option<Verdict>,
}

/// What is wrong with the counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Verdict {
    hypothesis: Hypothesis,
    fault: Fault,
    /// The bin in which it was found.
    found: i64,
}

/// A detector in a bin that closes.
pub(super) struct Subject<'d> {
    pub(super) traffic: &'d mut Traffic,
    /// What it counted, if enough of the bin is covered.
    pub(super) counted: Option<Counted>,
    /// Whether no fault stands against it.
    pub(super) is_trusted: bool,
}

/// What a detector counted in a bin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Vehicles, >= 0.
    pub(super) vehicles: f32,
    /// Share of the bin that is covered, 0..=1.
    pub(super) share: f32,
    /// Bins that one reading stands for, 1 for short periods.
    pub(super) bins: u16,
}

/// What was expected of a subject.
struct Expected {
    by_profile: f32,
    /// Given the companion, if it says something now.
    given: f32,
    companion: Option<Companion>,
    size: f32,
    size_by_profile: f32,
    deviance: f32,
    residual: f32,
}

impl Traffic {
    /// What was found of its counts, if that is this fault.
    pub(super) fn hypothesis(&self, fault: Fault) -> Option<Hypothesis> {
        self.verdict.filter(|verdict| verdict.fault == fault).map(|verdict| verdict.hypothesis)
    }

    /// What is wrong with the counts.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.verdict.map(|verdict| verdict.fault)
    }

    /// Counts of the last six hours as a multiple of what was expected.
    pub(super) fn level(&self) -> f32 {
        (self.level.0 + 0.5) / (self.level.1 + 0.5)
    }

    fn expected(&self, slot: Slot) -> Option<f32> {
        if self.profile.is_mature(slot.day_kind) { self.profile.expected(slot) } else { None }
    }
}

/// Judges the counts of a bin and learns from them.
pub(super) fn close(bin: i64, slot: Slot, subjects: &mut [Subject<'_>], companions: &mut Companions) {
    let common = follow_peers(slot, subjects);
    let quiet = is_quiet(slot, subjects);
    let expected = expect(slot, common, subjects, companions);
    let residuals: Vec<_> =
        subjects.iter().zip(&expected).map(|(subject, expected)| trusted_residual(subject, expected.as_ref())).collect();
    companions.learn(&residuals);

    let (surprises, peers) = subjects.iter_mut().zip(&expected).fold((0.0, 0.0), |(sum, n), (subject, expected)| {
        let Some(expected) = expected else { return (sum, n) };
        let traffic = &mut *subject.traffic;
        traffic.surprise = HOUR_KEPT * traffic.surprise + (1.0 - HOUR_KEPT) * expected.deviance;
        if subject.is_trusted { (sum + traffic.surprise.min(SURPRISE_MAX), n + 1.0) } else { (sum, n) }
    });
    for (subject, expected) in subjects.iter_mut().zip(&expected) {
        let (Some(expected), Some(counted)) = (expected, subject.counted) else { continue };
        let traffic = &mut *subject.traffic;
        let (own, one) = if subject.is_trusted { (traffic.surprise.min(SURPRISE_MAX), 1.0) } else { (0.0, 0.0) };
        // Squared, for where profiles are off, as in the days after a daylight-saving change, bins do not err independently.
        let turbulence = ((surprises - own + USUAL_PEERS) / (peers - one + USUAL_PEERS)).max(1.0).powi(2);
        traffic.residual = expected.residual;
        traffic.level = (LEVEL_KEPT * traffic.level.0 + counted.vehicles, LEVEL_KEPT * traffic.level.1 + expected.given);
        traffic.evidence.fold(&Count {
            bin,
            x: counted.vehicles,
            by_profile: expected.by_profile,
            expected: expected.given,
            size: expected.size,
            size_by_profile: expected.size_by_profile,
            persistence: traffic.dispersion.persistence(quiet),
            turbulence,
            quiet,
        });
    }
    judge(bin, quiet, subjects, &expected, companions);
    for (subject, expected) in subjects.iter_mut().zip(&expected) {
        learn(slot, quiet, common, subject, expected.as_ref());
    }
}

/// The log of the factor by which all detectors of the junction differ from their profiles.
fn follow_peers(slot: Slot, subjects: &mut [Subject<'_>]) -> f32 {
    for Subject { traffic, counted, .. } in subjects.iter_mut() {
        if let (Some(counted), Some(mean)) = (counted, traffic.expected(slot)) {
            traffic.hour = (HOUR_KEPT * traffic.hour.0 + counted.vehicles, HOUR_KEPT * traffic.hour.1 + mean * counted.share);
        }
    }
    let peers = subjects.iter().filter(|subject| subject.is_trusted && subject.counted.is_some());
    common_factor(peers.filter_map(|Subject { traffic, .. }| {
        traffic.expected(slot)?;
        let (counted, expected) = traffic.hour;
        Some((((counted + 0.5) / (expected + 0.5)).ln(), expected))
    }))
}

/// Whether the junction has little traffic in this slot.
fn is_quiet(slot: Slot, subjects: &[Subject<'_>]) -> bool {
    let profiles = || subjects.iter().map(|subject| &subject.traffic.profile);
    let now: f32 = profiles().filter_map(|profile| profile.expected(slot)).sum();
    now < QUIET_SHARE * profiles().map(|profile| profile.daily_mean(slot.day_kind)).sum::<f32>()
}

fn trusted_residual(subject: &Subject<'_>, expected: Option<&Expected>) -> Option<f32> {
    expected.filter(|_| subject.is_trusted).map(|expected| expected.residual)
}

/// What was to be expected of each subject that was counted and whose profile is mature.
fn expect(slot: Slot, common: f32, subjects: &[Subject<'_>], companions: &Companions) -> Vec<Option<Expected>> {
    let mut expected: Vec<_> = subjects.iter().map(|subject| expect_by_profile(slot, common, subject)).collect();
    let residuals: Vec<_> =
        subjects.iter().zip(&expected).map(|(subject, expected)| trusted_residual(subject, expected.as_ref())).collect();
    for (i, expected) in expected.iter_mut().enumerate() {
        let (Some(expected), Some(companion)) = (expected, companions.of(i, subjects.len())) else { continue };
        let own = 1.0 / expected.size;
        let alone = own + companion.explained / (1.0 - companion.explained) * (own + 1.0 / expected.by_profile);
        expected.size_by_profile = 1.0 / alone;
        let said = residuals.get(companion.index).copied().flatten().zip(subjects.get(companion.index));
        if let Some((residual, subject)) = said {
            expected.given = companion.given(expected.by_profile, residual, subject.traffic.residual);
        } else {
            // The learned scatter is that given the companion, which says nothing now.
            expected.size = expected.size_by_profile;
        }
        expected.companion = Some(companion);
    }
    expected
}

fn expect_by_profile(slot: Slot, common: f32, subject: &Subject<'_>) -> Option<Expected> {
    let counted = subject.counted?;
    let traffic = &*subject.traffic;
    let m = (traffic.expected(slot)? * counted.share * common.exp()).max(EXPECTED_MIN);
    let learned = traffic.dispersion.overdispersion(slot);
    let days = (SMOOTHED_DAYS * traffic.profile.days(slot.day_kind)).max(1.0);
    let weekend = if slot.day_kind == 1 { WEEKEND_OVERDISPERSION } else { 0.0 };
    let size = 1.0 / (learned + (learned + 1.0 / m) / days + weekend);
    Some(Expected {
        by_profile: m,
        given: m,
        companion: None,
        size,
        size_by_profile: size,
        deviance: deviance(counted.vehicles, m, size).min(25.0),
        residual: standardised(counted.vehicles, m),
    })
}

/// Raises what is best explained by a fault, and clears what is over.
fn judge(bin: i64, quiet: bool, subjects: &mut [Subject<'_>], expected: &[Option<Expected>], companions: &mut Companions) {
    let count = subjects.len();
    let mut own: Vec<_> = subjects.iter().map(|subject| subject.is_trusted.then_some(subject.traffic.evidence.own)).collect();
    for (i, Subject { traffic, is_trusted, .. }) in subjects.iter_mut().enumerate() {
        if let Some(Verdict { hypothesis, found, .. }) = traffic.verdict {
            // No counts at all are no new usual.
            if bin - found >= RELEARN_BINS && hypothesis != Hypothesis::Stuck {
                **traffic = Traffic::default();
                companions.forget(i, count);
            } else if traffic.evidence.of(hypothesis).score <= 0.0 {
                traffic.verdict = None;
                traffic.evidence.limit(EXPLAINED_KEPT * RAISE);
            }
        }
        let Some(best) = traffic.evidence.best() else { continue };
        let is_worse = traffic.verdict.is_some_and(|verdict| best == Hypothesis::Stuck && verdict.hypothesis != best && !quiet);
        if !*is_trusted && !is_worse {
            continue;
        }
        let companion = expected.get(i).and_then(Option::as_ref).and_then(|expected| expected.companion);
        let against = companion.and_then(|companion| own.get(companion.index).copied().flatten());
        if !is_at_fault(best, &traffic.evidence.own, against) {
            continue;
        }
        let [own_misses, own_repeats] = traffic.evidence.own.map(|cusum| cusum.since);
        let since = traffic.evidence.of(best).since;
        let deviates_since = match best {
            // It may have counted too few for days before it counted none.
            Hypothesis::Stuck => since,
            _ if best.is_upward() => own_repeats,
            _ => own_misses,
        };
        if companions.explain(i, deviates_since, &own) {
            traffic.evidence.limit(EXPLAINED_KEPT * RAISE);
            continue;
        }
        traffic.verdict = Some(Verdict { hypothesis: best, fault: name(best, bin - since), found: bin });
        if let Some(own) = own.get_mut(i) {
            *own = None;
        }
    }
}

/// Whether the detector deviates from its own profile, and more so than its companion does to the other side.
fn is_at_fault(hypothesis: Hypothesis, own: &[Cusum; 2], companion: Option<[Cusum; 2]>) -> bool {
    let [misses, repeats] = own.map(|cusum| cusum.score);
    let [their_misses, their_repeats] = companion.map_or([0.0; 2], |own| own.map(|cusum| cusum.score));
    let (mine, theirs) = if hypothesis.is_upward() { (repeats, their_misses) } else { (misses, their_repeats) };
    mine >= OWN_MIN && mine >= theirs
}

/// The fault that a hypothesis is, given for how many bins evidence grew.
const fn name(hypothesis: Hypothesis, bins: i64) -> Fault {
    match hypothesis {
        Hypothesis::Stuck => Fault::StuckOff,
        Hypothesis::Bursts => Fault::Chatter,
        Hypothesis::Misses | Hypothesis::Blind | Hypothesis::Repeats if bins > DRIFT_BINS => Fault::Drift,
        Hypothesis::Misses | Hypothesis::Blind => Fault::Undercount,
        Hypothesis::Repeats => Fault::Overcount,
    }
}

/// Learns from a count, if no fault stands against the detector.
fn learn(slot: Slot, quiet: bool, common: f32, subject: &mut Subject<'_>, expected: Option<&Expected>) {
    let (Some(counted), true, None) = (subject.counted, subject.is_trusted, subject.traffic.verdict) else { return };
    let traffic = &mut *subject.traffic;
    let suspected = traffic.evidence.strongest() > SUSPECTED * RAISE;
    let weight = if suspected { SUSPECTED_GAIN } else { 1.0 };
    traffic.profile.learn(slot, counted.vehicles / counted.share / common.exp(), counted.bins, weight);
    if let (Some(expected), false) = (expected, suspected) {
        traffic.dispersion.learn(slot, quiet, counted.vehicles, expected.given, expected.size);
    }
}
