//! The parameters of the planner: each with its unit, range, default and source, in this one place.
//!
//! A junction may set its own in `control.planner` of its configuration; what it leaves out takes the default.

use serde_json::Value;

use crate::fields::{At, Faults, Fields, number};

macro_rules! parameters {
    ($($(#[$doc:meta])+ $name:ident: $default:literal in $min:literal..=$max:literal;)+) => {
        /// How the planner models a junction and what it minimises.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Planner {
            $($(#[$doc])+ pub $name: f64,)+
        }

        impl Default for Planner {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Planner {
            /// Name, smallest value, default and largest value of each parameter, for documents and tests.
            pub const PARAMETERS: &[(&str, f64, f64, f64)] = &[$((stringify!($name), $min, $default, $max),)+];

            /// Reads the object `control.planner`.
            pub(super) fn read(value: &Value, at: &At<'_>, faults: &mut Faults) -> Self {
                let mut planner = Self::default();
                let Some(mut fields) = Fields::of(value, at, faults) else { return planner };
                $(if let Some(own) = fields.optional(stringify!($name), at, faults, number($min, $max)) {
                    planner.$name = own;
                })+
                fields.refuse_others(at, faults);
                planner
            }
        }
    };
}

parameters! {
    /// Vehicles that pass the stop line of one lane in an hour of green, while a queue lasts. HCM 6, base saturation flow.
    saturation_flow_vph: 1900.0 in 600.0..=2600.0;
    /// Green that is lost until the first vehicle moves, s. Measured in SUMO 1.9.2; HCM 6 has 2 s for the first four vehicles together.
    startup_loss_s: 0.5 in 0.0..=4.0;
    /// Seconds of yellow in which vehicles still pass, at most all of it. Measured in SUMO 1.9.2; HCM 6 has 2 s, its extension of
    /// effective green.
    yellow_used_s: 1.0 in 0.0..=5.0;
    /// How much later a green starts, and how much more of its yellow is used, at a junction where turns that give way share more than
    /// one lane of a stage with through vehicles, s: the first wait for each other, and leave at the end. Added to `startup_loss_s` and
    /// `yellow_used_s`. Chosen in simulation.
    give_way_margin_s: 0.5 in 0.0..=3.0;
    /// Flow of a movement that gives way, as a share of the same movement with right of way. A prior; the flow itself is learnt.
    permitted_share: 0.5 in 0.05..=1.0;
    /// Weight of a turn against a through movement of the same lane. A prior; the flow itself is learnt.
    turn_weight: 0.5 in 0.05..=2.0;
    /// Slowest approach that is believed of a moving vehicle, as a share of the speed limit: slower ones are about to speed up.
    /// Chosen in simulation.
    approach_speed_share: 0.5 in 0.1..=1.0;
    /// Until this share of an exit is full of standing vehicles, it takes all that comes; from there on less and less. Chosen in simulation.
    exit_free_share: 0.4 in 0.0..=0.9;
    /// The least that a lane is believed to discharge in a stage, as a factor on what the parameters above say: a slower one is held up by
    /// something else. Chosen in simulation.
    discharge_min: 0.5 in 0.1..=1.0;
    /// The most that it is believed to discharge, as the same factor. Chosen in simulation.
    discharge_max: 1.5 in 1.0..=3.0;
    /// Weight of a period in which the discharge was seen: at a tenth, the last ten or so count. Chosen in simulation.
    discharge_weight: 0.1 in 0.0..=1.0;
    /// A stage is not clear while vehicles arrive within this time, s: a change with its clearance takes about that. Chosen in simulation.
    clear_ahead_s: 6.0 in 0.0..=15.0;
    /// How far ahead the planner looks, s. Chosen in simulation: longer horizons cost time and gained nothing.
    horizon_s: 45.0 in 20.0..=90.0;
    /// What a stop costs besides the wait, in vehicle-seconds: from 50 km/h, braking at 4.5 and starting at 2.6 m/s² lose 4.2 s.
    /// Chosen in simulation near that.
    stop_cost_s: 5.0 in 0.0..=20.0;
    /// What a vehicle that still waits at the horizon costs, in vehicle-seconds. Chosen in simulation.
    unserved_cost_s: 10.0 in 0.0..=60.0;
    /// What a change of stage costs besides its clearance, in vehicle-seconds. Chosen in simulation.
    change_cost_s: 1.0 in 0.0..=60.0;
    /// What it costs, for each movement, to end a green in which turning vehicles give way while they stand at its head, in
    /// vehicle-seconds, unless the next stage gives them right of way: some stand in the junction already. Chosen in simulation.
    stranding_cost_s: 40.0 in 0.0..=500.0;
}
