//! The tables by type: a function says which ones it has, and thereby which stores [`DynamoDb`](super::DynamoDb) is for it.

use crate::aws::config::{ConfigError, Environment};

macro_rules! table {
    ($(#[$doc:meta])* $table:ident: $name:literal $(, $retention:literal or $days:literal days)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $table {
            /// The name of the table.
            pub name: String,
            $(
                #[doc = concat!("How many days an item stays after it was written for the last time; ", $days, " if not set.")]
                pub retention_days: table!(@days $days),
            )?
        }

        impl $table {
            #[doc = concat!("Reads `", $name, "`", $(" and `", $retention, "`",)? ".")]
            ///
            /// # Errors
            /// [`ConfigError`] names the variable that is missing or wrong.
            pub fn read<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<Self, ConfigError> {
                Ok(Self {
                    name: environment.text($name)?,
                    $(retention_days: environment.number_or($retention, $days)?,)?
                })
            }
        }
    };
    (@days $days:literal) => { u32 };
}

table!(
    /// Configuration, written by `operations-api`; has the index `ids`.
    Intersections: "INTERSECTIONS_TABLE"
);
table!(
    /// Plans and state of junctions, written by `signal-adjustment`.
    Junctions: "JUNCTIONS_TABLE"
);
table!(
    /// Decision records, written by `signal-adjustment`.
    Decisions: "DECISIONS_TABLE", "DECISIONS_RETENTION_DAYS" or 30 days
);
table!(
    /// What people say of assets, written by `operations-api`.
    Assets: "ASSETS_TABLE"
);
table!(
    /// Condition and state of assets, written by `maintenance-prediction`.
    Conditions: "CONDITIONS_TABLE"
);
table!(
    /// Alerts, written by `maintenance-prediction`; those that are not cleared stay for ever.
    Alerts: "ALERTS_TABLE", "ALERTS_RETENTION_DAYS" or 365 days
);
table!(
    /// Who knows of which alert, written by `operations-api`.
    Acknowledgements: "ACKNOWLEDGEMENTS_TABLE"
);

/// Makes the set of tables that a function has: `tables!(/** Doc. */ pub(crate) struct Tables { junctions: Junctions, ... })`.
///
/// The set reads its names from the environment, and [`DynamoDb`](crate::aws::DynamoDb) over it is a store for each of them.
#[macro_export]
macro_rules! tables {
    ($(#[$doc:meta])* $visibility:vis struct $set:ident { $($field:ident: $table:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $visibility struct $set {
            $($field: $crate::aws::tables::$table,)+
        }

        impl $set {
            /// Reads the names of the tables, and how long they keep what they forget.
            $visibility fn read<F: Fn(&str) -> Option<String>>(
                environment: &$crate::aws::config::Environment<F>,
            ) -> Result<Self, $crate::aws::config::ConfigError> {
                Ok(Self { $($field: $crate::aws::tables::$table::read(environment)?,)+ })
            }
        }

        $(impl AsRef<$crate::aws::tables::$table> for $set {
            fn as_ref(&self) -> &$crate::aws::tables::$table {
                &self.$field
            }
        })+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::tables! {
        /// Two of them.
        struct Two { conditions: Conditions, alerts: Alerts }
    }

    fn named(name: &str) -> Option<String> {
        ["CONDITIONS_TABLE", "ALERTS_TABLE"].contains(&name).then(|| name.to_lowercase())
    }

    #[test]
    fn a_set_reads_what_its_tables_need_and_nothing_else() {
        let two = Two::read(&Environment::new(named)).unwrap();
        assert_eq!(AsRef::<Conditions>::as_ref(&two).name, "conditions_table");
        assert_eq!(AsRef::<Alerts>::as_ref(&two), &Alerts { name: "alerts_table".into(), retention_days: 365 });
    }

    #[test]
    fn a_missing_name_and_a_retention_that_is_no_number_are_named() {
        let without = Environment::new(|name: &str| named(name).filter(|_| name != "ALERTS_TABLE"));
        assert_eq!(Two::read(&without), Err(ConfigError::Missing("ALERTS_TABLE")));
        let wrong = Environment::new(|name: &str| named(name).or_else(|| Some("a year".into())));
        assert!(matches!(Two::read(&wrong), Err(ConfigError::Invalid { name: "ALERTS_RETENTION_DAYS", .. })));
    }
}
