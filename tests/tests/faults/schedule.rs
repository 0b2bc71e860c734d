//! A schedule of one storm as a value: what is sent when, and what fails. It can be made smaller part by part.

use greenwave::mapping::Settings;
use proptest::collection::vec;
use proptest::prelude::*;

/// Keys of the stream: two junctions, one that nobody configured, and two machines.
pub(crate) const KEYS: [&str; 5] = ["J1", "J2", "J9", "pump-1", "pump-2"];

/// One storm.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// How the suite is set up.
    pub(crate) setting: Setting,
    /// What happens, one after the other.
    pub(crate) acts: Vec<Act>,
    /// What fails.
    pub(crate) strikes: Vec<Strike>,
}

/// How the suite is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Shards of the stream.
    pub(crate) shards: u16,
    /// The mapping of `signal-adjustment`.
    pub(crate) signals: Mapping,
    /// The mapping of `maintenance-prediction`.
    pub(crate) maintenance: Mapping,
    /// How long a function trusts the configuration it read, s.
    pub(crate) configuration_ttl_s: u32,
    /// Poison records and given-up batches that there is room for until the storm is over.
    pub(crate) room: (u64, u64),
    /// Seconds between two readings of a sensor.
    pub(crate) period_s: u32,
}

/// What varies of a mapping; the other settings are those of the template.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    /// Most records of a batch.
    pub(crate) batch: usize,
    /// Lanes of a shard.
    pub(crate) lanes: usize,
    /// Seconds that a batch waits to be filled.
    pub(crate) window_s: u32,
    /// Retries until a batch is given up; -1 is for ever.
    pub(crate) retries: i32,
    /// Seconds after which a record is given up; -1 is never.
    pub(crate) age_s: i32,
    /// Whether a failed batch is halved.
    pub(crate) bisect: bool,
}

impl Mapping {
    fn of(settings: &Settings) -> Self {
        Self {
            batch: settings.batch_size,
            lanes: settings.parallelization_factor,
            window_s: settings.maximum_batching_window_in_seconds,
            retries: settings.maximum_retry_attempts,
            age_s: settings.maximum_record_age_in_seconds,
            bisect: settings.bisect_batch_on_function_error,
        }
    }
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sensors send what they see.
    Post(Post),
    /// Bytes that are no readings are put on the stream under a key.
    Poison {
        /// Place in [`KEYS`].
        key: usize,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The functions lose what they remember, and the mapping what it holds.
    Restart {
        /// Whether calls under way may end first.
        gently: bool,
        /// What becomes of the shards while nobody reads them.
        reshards: Vec<Reshard>,
    },
    /// Shards are split and merged, one after the other, while everything else goes on.
    Reshard {
        /// Wait before it, ms.
        after_ms: u64,
        /// What becomes of them.
        reshards: Vec<Reshard>,
    },
    /// Batches that were delivered before are delivered once more, to other instances of the functions.
    Again(Vec<u16>),
    /// Silent junctions are looked for.
    Sweep,
    /// The clock of the processors shows another time.
    Jump {
        /// How far it is ahead of the true time, s.
        ahead_s: i64,
    },
    /// Nothing.
    Wait {
        /// For so long, s.
        seconds: u32,
    },
}

/// What becomes of an open shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reshard {
    /// Which one, counted in the order of their ranges, past the last from the first on.
    pub(crate) which: u8,
    /// How much of its range the first of two children gets, in 256ths; `None` merges it with its neighbour.
    pub(crate) split: Option<u8>,
}

/// What sensors send in one request.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    /// Whose readings, by the place in [`KEYS`].
    pub(crate) keys: Vec<usize>,
    /// Wait before it, in tenths of a sensor's period.
    pub(crate) after: u32,
    /// Lanes that say nothing, a bit each.
    pub(crate) silent: u8,
    /// Lanes that report a fault, a bit each.
    pub(crate) faulty: u8,
    /// Lanes and machines whose clock is wrong, a bit each.
    pub(crate) skewed: u8,
    /// By how much, s.
    pub(crate) skew_s: i64,
    /// Whether the controller reports.
    pub(crate) reported: bool,
    /// How long the client waits for an answer, ms.
    pub(crate) patience_ms: u64,
    /// How often the client sends it again if no good answer comes.
    pub(crate) again: u8,
}

/// Something fails.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    /// Where.
    pub(crate) spot: Spot,
    /// At which call of it, counted from 0.
    pub(crate) call: u16,
    /// How many calls in a row.
    pub(crate) calls: u16,
    /// Which fault, 0 to 1.
    pub(crate) fault: f64,
}

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    Stream,
    Signals,
    Maintenance,
    SignalsStore,
    MaintenanceStore,
    Bus,
    Quarantine,
}

fn mapping(template: Mapping) -> impl Strategy<Value = Mapping> {
    let retries = prop_oneof![4 => Just(template.retries), 2 => Just(-1), 1 => Just(0), 1 => Just(1)];
    // What may wait for longer than it may last is always given up.
    let times = prop_oneof![Just((0_u32, 60)), Just((1, 62)), Just((300, 360))];
    let varied = (1..12_usize, 1..4_usize, times, retries, any::<bool>(), any::<bool>());
    let varied = varied.prop_map(|(batch, lanes, (window_s, age_s), retries, lasts, bisect)| {
        let age_s = if lasts { -1 } else { age_s };
        Mapping { batch, lanes, window_s, retries, age_s, bisect }
    });
    prop_oneof![Just(template), varied]
}

fn setting() -> impl Strategy<Value = Setting> {
    let [signals, maintenance] = greenwave::cost::deployed_settings().map(|settings| Mapping::of(&settings));
    let room = prop_oneof![3 => Just((10_000, 1_000)), 1 => (0..3_u64, 0..3_u64)];
    let ttl = prop_oneof![Just(0_u32), Just(60)];
    let period = prop_oneof![Just(5_u32), Just(60)];
    (1..4_u16, mapping(signals), mapping(maintenance), ttl, room, period).prop_map(
        |(shards, signals, maintenance, configuration_ttl_s, room, period_s)| Setting {
            shards,
            signals,
            maintenance,
            configuration_ttl_s,
            room,
            period_s,
        },
    )
}

fn post() -> impl Strategy<Value = Post> {
    let keys = prop::sample::subsequence((0..KEYS.len()).collect::<Vec<_>>(), 1..=KEYS.len());
    let after = prop_oneof![8 => Just(10_u32), 2 => 0..10_u32, 1 => 10..100_u32];
    let few = || prop_oneof![4 => Just(0_u8), 2 => any::<u8>()];
    let skew = prop_oneof![3 => -10..10_i64, 1 => -400..400_i64, 1 => Just(3_600), 1 => Just(-90_000)];
    let patience = prop_oneof![3 => Just(30_000_u64), 1 => 0..1_000_u64];
    (keys, after, few(), few(), few(), skew, any::<bool>(), patience, 0..3_u8).prop_map(
        |(keys, after, silent, faulty, skewed, skew_s, reported, patience_ms, again)| Post {
            keys,
            after,
            silent,
            faulty,
            skewed,
            skew_s,
            reported,
            patience_ms,
            again,
        },
    )
}

fn reshard() -> impl Strategy<Value = Reshard> {
    (any::<u8>(), prop_oneof![1 => Just(None), 2 => any::<u8>().prop_map(Some)]).prop_map(|(which, split)| Reshard { which, split })
}

fn act() -> impl Strategy<Value = Act> {
    let poison = prop_oneof![Just(vec![]), Just(b"{}".to_vec()), Just(b"{\"v\": 9}".to_vec()), vec(any::<u8>(), 1..8)];
    prop_oneof![
        24 => post().prop_map(Act::Post),
        2 => (0..KEYS.len(), poison).prop_map(|(key, data)| Act::Poison { key, data }),
        1 => (any::<bool>(), vec(reshard(), 0..3)).prop_map(|(gently, reshards)| Act::Restart { gently, reshards }),
        2 => (prop_oneof![Just(0_u64), 0..60_000_u64], vec(reshard(), 1..4)).prop_map(|(after_ms, reshards)| Act::Reshard { after_ms, reshards }),
        4 => vec(any::<u16>(), 1..4).prop_map(Act::Again),
        2 => Just(Act::Sweep),
        1 => (-7_200..7_200_i64).prop_map(|ahead_s| Act::Jump { ahead_s }),
        1 => (1..1_000_u32).prop_map(|seconds| Act::Wait { seconds }),
    ]
}

fn strike() -> impl Strategy<Value = Strike> {
    let spot = prop_oneof![
        2 => Just(Spot::Stream),
        2 => Just(Spot::Signals),
        2 => Just(Spot::Maintenance),
        4 => Just(Spot::SignalsStore),
        4 => Just(Spot::MaintenanceStore),
        1 => Just(Spot::Bus),
        1 => Just(Spot::Quarantine),
    ];
    let call = prop_oneof![0..10_u16, 0..100_u16];
    let calls = prop_oneof![6 => Just(1_u16), 2 => 1..4_u16, 1 => 1..30_u16];
    (spot, call, calls, 0.0..1.0).prop_map(|(spot, call, calls, fault)| Strike { spot, call, calls, fault })
}

/// Any storm.
pub(crate) fn schedule() -> impl Strategy<Value = Schedule> {
    let acts = prop_oneof![vec(act(), 1..12), vec(act(), 1..40)];
    (setting(), acts, vec(strike(), 0..24)).prop_map(|(setting, acts, strikes)| Schedule { setting, acts, strikes })
}
