//! Settings of the function, from its environment.

use shared::aws::config::{ConfigError, Environment};

shared::tables! {
    /// The tables that the function writes or reads.
    pub(crate) struct Tables {
        intersections: Intersections,
        junctions: Junctions,
        decisions: Decisions,
        assets: Assets,
        conditions: Conditions,
        alerts: Alerts,
        acknowledgements: Acknowledgements,
    }
}

/// What template.yaml sets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `INTERSECTIONS_TABLE`, `JUNCTIONS_TABLE`, `DECISIONS_TABLE`, `ASSETS_TABLE`, `CONDITIONS_TABLE`, `ALERTS_TABLE`,
    /// `ACKNOWLEDGEMENTS_TABLE`.
    pub(crate) tables: Tables,
    /// `EVENT_BUS_NAME`.
    pub(crate) event_bus: String,
    /// `MODELS_BUCKET`: without one, only the models that are shipped.
    pub(crate) models_bucket: Option<String>,
}

impl Settings {
    pub(crate) fn read<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<Self, ConfigError> {
        Ok(Self {
            tables: Tables::read(environment)?,
            event_bus: environment.text("EVENT_BUS_NAME")?,
            models_bucket: environment.optional("MODELS_BUCKET"),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test may panic")]
mod tests {
    use super::*;

    fn with_names(name: &str) -> Option<String> {
        (name.ends_with("_TABLE") || name == "EVENT_BUS_NAME").then(|| name.to_lowercase())
    }

    #[test]
    fn names_are_enough_to_start() {
        let settings = Settings::read(&Environment::new(with_names)).unwrap();
        assert_eq!((settings.event_bus.as_str(), settings.models_bucket), ("event_bus_name", None));
    }

    #[test]
    fn each_name_is_missed() {
        for missing in ["ASSETS_TABLE", "CONDITIONS_TABLE", "ALERTS_TABLE", "ACKNOWLEDGEMENTS_TABLE", "EVENT_BUS_NAME"] {
            let others = Environment::new(|name: &str| with_names(name).filter(|_| name != missing));
            assert_eq!(Settings::read(&others), Err(ConfigError::Missing(missing)));
        }
    }
}
