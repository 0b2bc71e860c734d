//! Settings of the function, from its environment.

use shared::aws::config::{ConfigError, Environment};
use shared::units::Deciseconds;

shared::tables! {
    /// The tables that the function writes or reads.
    pub(crate) struct Tables {
        intersections: Intersections,
        conditions: Conditions,
        junctions: Junctions,
        decisions: Decisions,
    }
}

/// What template.yaml sets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `INTERSECTIONS_TABLE`, `CONDITIONS_TABLE`, `JUNCTIONS_TABLE`, `DECISIONS_TABLE`, `DECISIONS_RETENTION_DAYS`.
    pub(crate) tables: Tables,
    /// `QUARANTINE_BUCKET`.
    pub(crate) quarantine_bucket: String,
    /// `CONFIGURATION_TTL_S`: after how long a change of configuration has reached every warm function.
    pub(crate) configuration_ttl: Deciseconds,
}

impl Settings {
    pub(crate) fn read<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<Self, ConfigError> {
        Ok(Self {
            tables: Tables::read(environment)?,
            quarantine_bucket: environment.text("QUARANTINE_BUCKET")?,
            configuration_ttl: Deciseconds::from_secs(environment.number_or("CONFIGURATION_TTL_S", 60)?),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test may panic")]
mod tests {
    use super::*;
    use shared::aws::tables::Decisions;

    fn with_names(name: &str) -> Option<String> {
        (name.ends_with("_TABLE") || name.ends_with("_BUCKET")).then(|| name.to_lowercase())
    }

    #[test]
    fn names_are_enough_to_start() {
        let settings = Settings::read(&Environment::new(with_names)).unwrap();
        let decisions = Decisions { name: "decisions_table".into(), retention_days: 30 };
        assert_eq!((settings.tables.as_ref(), settings.configuration_ttl), (&decisions, Deciseconds::from_secs(60)));
    }

    #[test]
    fn each_name_is_missed() {
        for missing in ["INTERSECTIONS_TABLE", "CONDITIONS_TABLE", "JUNCTIONS_TABLE", "DECISIONS_TABLE", "QUARANTINE_BUCKET"] {
            let others = Environment::new(|name: &str| with_names(name).filter(|_| name != missing));
            assert_eq!(Settings::read(&others), Err(ConfigError::Missing(missing)));
        }
    }
}
