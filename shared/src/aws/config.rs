//! Settings from the environment, read once at start by the `config.rs` of a function.

use std::str::FromStr;

/// A setting that stops a function from starting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It has no default.
    #[error("the environment variable {0} is not set; template.yaml sets it for each function")]
    Missing(&'static str),
    /// It cannot be read.
    #[error("the environment variable {name} is '{value}', which is not {expected}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Looks up environment variables; a variable that is set but empty counts as not set.
pub struct Environment<F>(F);

impl Environment<fn(&str) -> Option<String>> {
    /// The environment of this process.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the environment enters")]
    pub fn of_process() -> Self {
        Self(|name| std::env::var(name).ok())
    }
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    /// Variables as a function tells them; for tests.
    pub const fn new(lookup: F) -> Self {
        Self(lookup)
    }

    /// A text that may be missing.
    pub fn optional(&self, name: &'static str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn text(&self, name: &'static str) -> Result<String, ConfigError> {
        self.optional(name).ok_or(ConfigError::Missing(name))
    }

    /// A text that has a default.
    pub fn text_or(&self, name: &'static str, default: &str) -> String {
        self.optional(name).unwrap_or_else(|| default.to_owned())
    }

    /// A whole number that has a default.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is set to something else or beyond the range of `N`.
    pub fn number_or<N: FromStr>(&self, name: &'static str, default: N) -> Result<N, ConfigError> {
        let Some(value) = self.optional(name) else { return Ok(default) };
        value.parse().map_err(|_| ConfigError::Invalid { name, value, expected: "a whole number in range" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "STREAM_NAME" => Some("readings".into()),
            "EMPTY" => Some(String::new()),
            "DAYS" => Some("7".into()),
            "NEGATIVE" => Some("-7".into()),
            _ => None,
        }
    }

    #[test]
    fn a_missing_or_empty_setting_is_named() {
        let environment = Environment::new(environment);
        assert_eq!(environment.text("STREAM_NAME").unwrap(), "readings");
        assert_eq!(environment.text("EMPTY"), Err(ConfigError::Missing("EMPTY")));
        assert!(environment.text("ABSENT").unwrap_err().to_string().contains("ABSENT"));
        assert_eq!(["STREAM_NAME", "EMPTY", "ABSENT"].map(|name| environment.optional(name)), [Some("readings".into()), None, None]);
    }

    #[test]
    fn a_number_has_a_default_but_nonsense_is_refused() {
        let environment = Environment::new(environment);
        assert_eq!(environment.number_or("DAYS", 30_u32), Ok(7));
        assert_eq!(environment.number_or("ABSENT", 30_u32), Ok(30));
        assert!(matches!(environment.number_or("NEGATIVE", 30_u32), Err(ConfigError::Invalid { name: "NEGATIVE", .. })));
    }
}
