//! Settings of the function, from its environment.

use shared::aws::Tables;
use shared::aws::config::{ConfigError, Environment};

/// What template.yaml sets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `INTERSECTIONS_TABLE`, `JUNCTIONS_TABLE`, `DECISIONS_TABLE`.
    pub(crate) tables: Tables,
}

impl Settings {
    pub(crate) fn read<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<Self, ConfigError> {
        Ok(Self { tables: Tables::read(environment)? })
    }
}
