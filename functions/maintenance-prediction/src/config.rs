//! Settings of the function, from its environment.

use shared::aws::config::{ConfigError, Environment};
use shared::units::Deciseconds;

shared::tables! {
    /// The tables that the function writes or reads.
    pub(crate) struct Tables {
        intersections: Intersections,
        conditions: Conditions,
        alerts: Alerts,
    }
}

/// What template.yaml sets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `INTERSECTIONS_TABLE`, `CONDITIONS_TABLE`, `ALERTS_TABLE`, `ALERTS_RETENTION_DAYS`.
    pub(crate) tables: Tables,
    /// `EVENT_BUS_NAME`.
    pub(crate) event_bus: String,
    /// `MODELS_BUCKET`: without one, only the models that are shipped.
    pub(crate) models_bucket: Option<String>,
    /// `QUARANTINE_BUCKET`.
    pub(crate) quarantine_bucket: String,
    /// `CONFIGURATION_TTL_S`: after how long a configured detector is expected by every warm function.
    pub(crate) configuration_ttl: Deciseconds,
}

impl Settings {
    pub(crate) fn read<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<Self, ConfigError> {
        Ok(Self {
            tables: Tables::read(environment)?,
            event_bus: environment.text("EVENT_BUS_NAME")?,
            models_bucket: environment.optional("MODELS_BUCKET"),
            quarantine_bucket: environment.text("QUARANTINE_BUCKET")?,
            configuration_ttl: Deciseconds::from_secs(environment.number_or("CONFIGURATION_TTL_S", 60)?),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test may panic")]
mod tests {
    use super::*;

    fn with_names(name: &str) -> Option<String> {
        (name.ends_with("_TABLE") || matches!(name, "EVENT_BUS_NAME" | "QUARANTINE_BUCKET")).then(|| name.to_lowercase())
    }

    #[test]
    fn names_are_enough_to_start() {
        let settings = Settings::read(&Environment::new(with_names)).unwrap();
        assert_eq!((settings.models_bucket, settings.configuration_ttl), (None, Deciseconds::from_secs(60)));
    }

    #[test]
    fn each_name_is_missed() {
        for missing in ["INTERSECTIONS_TABLE", "CONDITIONS_TABLE", "ALERTS_TABLE", "EVENT_BUS_NAME", "QUARANTINE_BUCKET"] {
            let others = Environment::new(|name: &str| with_names(name).filter(|_| name != missing));
            assert_eq!(Settings::read(&others), Err(ConfigError::Missing(missing)));
        }
    }
}
