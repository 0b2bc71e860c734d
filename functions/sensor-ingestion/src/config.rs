//! Settings of the function, from its environment.

use sensor_ingestion::Config;
use shared::aws::config::{ConfigError, Environment};
use shared::units::Deciseconds;

/// What template.yaml sets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `STREAM_NAME`.
    pub(crate) stream_name: String,
    /// `READING_AGE_MAX_S` and `READING_AHEAD_MAX_S`; both sides stay closed on Lambda.
    pub(crate) times: Config,
}

impl Settings {
    pub(crate) fn read<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<Self, ConfigError> {
        let seconds = |name, default| environment.number_or(name, default).map(Deciseconds::from_secs).map(Some);
        Ok(Self {
            stream_name: environment.text("STREAM_NAME")?,
            times: Config { oldest: seconds("READING_AGE_MAX_S", 86_400)?, furthest_ahead: seconds("READING_AHEAD_MAX_S", 30)? },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test may panic")]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_bounds_of_the_contract_unless_set() {
        let name_alone = Environment::new(|name: &str| (name == "STREAM_NAME").then(|| "readings".to_owned()));
        assert_eq!(Settings::read(&name_alone).unwrap().times, Config::default());
        let hour = Environment::new(|_: &str| Some("3600".to_owned()));
        assert_eq!(Settings::read(&hour).unwrap().times.oldest, Some(Deciseconds::from_secs(3600)));
    }

    #[test]
    fn without_a_stream_the_function_does_not_start() {
        assert_eq!(Settings::read(&Environment::new(|_: &str| None)), Err(ConfigError::Missing("STREAM_NAME")));
    }
}
