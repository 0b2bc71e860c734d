//! Query parameters of lists.

use shared::alert::AlertStatus;
use shared::asset::{Fault, HealthState};
use shared::ids::{IntersectionId, InvalidId};
use shared::units::Timestamp;

use crate::{alerts, assets};

/// Entries on a page unless the client says otherwise.
const LIMIT_DEFAULT: usize = 100;
/// Most entries on a page.
const LIMIT_MAX: usize = 500;

const STATES: &[(&str, HealthState)] =
    &[("normal", HealthState::Normal), ("alert", HealthState::Alert), ("alarm", HealthState::Alarm), ("unknown", HealthState::Unknown)];

/// A parameter is malformed or out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} {message}")]
pub struct InvalidParameter {
    /// The parameter.
    pub name: &'static str,
    /// What would be right.
    pub message: String,
}

impl InvalidParameter {
    /// The parameter of this name does not fit.
    pub fn new(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, message: message.into() }
    }
}

/// The decoded parameters of one request. Those that nobody asks for are ignored.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The parameters in the order of the request.
    pub const fn new(parameters: Vec<(String, String)>) -> Self {
        Self(parameters)
    }

    fn get(&self, name: &'static str) -> Result<Option<&str>, InvalidParameter> {
        let mut values = self.0.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(InvalidParameter::new(name, "must be given once")),
        }
    }

    /// Most entries on the page, 1 to 500.
    ///
    /// # Errors
    /// [`InvalidParameter`] if it is something else.
    pub fn limit(&self) -> Result<usize, InvalidParameter> {
        let Some(text) = self.get("limit")? else { return Ok(LIMIT_DEFAULT) };
        let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| InvalidParameter::new("limit", format!("must be a whole number from 1 to {LIMIT_MAX}")))
    }

    /// The id after which the page begins.
    ///
    /// # Errors
    /// [`InvalidParameter`] if it is no cursor of a list of such ids.
    pub fn after_id<T: for<'a> TryFrom<&'a str>>(&self) -> Result<Option<T>, InvalidParameter> {
        self.cursor()?.map(|cursor| T::try_from(&cursor.replace('~', "#")).map_err(|_| foreign_cursor())).transpose()
    }

    /// The time after which the page begins.
    ///
    /// # Errors
    /// [`InvalidParameter`] if it is no cursor of a list of decisions.
    pub fn after_time(&self) -> Result<Option<Timestamp>, InvalidParameter> {
        self.cursor()?.map(|cursor| Timestamp::parse(cursor).map_err(|_| foreign_cursor())).transpose()
    }

    fn cursor(&self) -> Result<Option<&str>, InvalidParameter> {
        Ok(self.get("cursor")?.filter(|cursor| !cursor.is_empty()))
    }

    /// The beginning of all ids on the page.
    ///
    /// # Errors
    /// [`InvalidParameter`] if no id begins so.
    pub fn prefix(&self) -> Result<&str, InvalidParameter> {
        let prefix = self.get("prefix")?.unwrap_or_default();
        // The beginning of an id is an id, unless it is empty.
        if prefix.is_empty() || IntersectionId::try_from(prefix).is_ok() {
            return Ok(prefix);
        }
        Err(InvalidParameter::new("prefix", "must be the beginning of an intersection id"))
    }

    /// Which assets the page shows.
    ///
    /// # Errors
    /// [`InvalidParameter`] if no asset can be of that kind or in that state.
    pub fn assets(&self) -> Result<assets::Filter, InvalidParameter> {
        Ok(assets::Filter { kind: self.id("kind")?, state: self.word("state", STATES)? })
    }

    /// Which alerts the page shows.
    ///
    /// # Errors
    /// [`InvalidParameter`] if no alert can be like that.
    pub fn alerts(&self) -> Result<alerts::Filter, InvalidParameter> {
        let status = self.word("status", AlertStatus::NAMES)?;
        let fault = self.word("fault", Fault::NAMES)?;
        Ok(alerts::Filter { status, asset_id: self.id("asset_id")?, kind: self.id("kind")?, fault })
    }

    fn id<T: for<'a> TryFrom<&'a str, Error = InvalidId>>(&self, name: &'static str) -> Result<Option<T>, InvalidParameter> {
        self.get(name)?.map(|text| T::try_from(text).map_err(|e| InvalidParameter::new(name, e.to_string()))).transpose()
    }

    fn word<T: Copy>(&self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>, InvalidParameter> {
        let Some(text) = self.get(name)? else { return Ok(None) };
        let meaning = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        let names = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        meaning.map(Some).ok_or_else(|| InvalidParameter::new(name, format!("must be one of {}", names())))
    }

    /// The times from which (inclusive) and to which (exclusive) the page reaches.
    ///
    /// # Errors
    /// [`InvalidParameter`] if one is no time, or if they are the wrong way round.
    pub fn span(&self) -> Result<(Timestamp, Timestamp), InvalidParameter> {
        let from = self.time("from")?.unwrap_or(Timestamp::from_millis(i64::MIN));
        let to = self.time("to")?.unwrap_or(Timestamp::from_millis(i64::MAX));
        if from > to { Err(InvalidParameter::new("from", "must not be after to")) } else { Ok((from, to)) }
    }

    fn time(&self, name: &'static str) -> Result<Option<Timestamp>, InvalidParameter> {
        let parse = |text| Timestamp::parse(text).map_err(|e| InvalidParameter::new(name, format!("{e}; write the + of an offset as %2B")));
        self.get(name)?.map(parse).transpose()
    }
}

fn foreign_cursor() -> InvalidParameter {
    InvalidParameter::new("cursor", "must be the next_cursor of the page before")
}

/// The cursor that [`Query::after_id`] reads as this id. A client that does not URL-encode it would lose what follows a `#`,
/// which no id may contain as `~`.
pub fn cursor_after(id: &str) -> String {
    id.replace('#', "~")
}
