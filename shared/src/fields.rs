//! Reads JSON objects field by field, and says for every fault where it is, what it is and what would be right.

use serde_json::{Map, Value};

use crate::ids::InvalidId;
use crate::units::{Deciseconds, Timestamp};

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// JSON pointer (RFC 6901) to the field.
    pub pointer: String,
    /// Stable code.
    pub code: &'static str,
    /// What would be right.
    pub message: String,
}

/// The faults of one document, in the order found; at most [`Faults::MAX`] are kept.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// More faults than anybody reads.
    pub const MAX: usize = 100;

    /// Notes a fault at the place.
    pub fn add(&mut self, at: &At<'_>, code: &'static str, message: impl Into<String>) {
        if self.0.len() < Self::MAX {
            self.0.push(Fault { pointer: at.pointer(), code, message: message.into() });
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The faults.
    pub fn into_vec(self) -> Vec<Fault> {
        self.0
    }
}

/// A place in a document; the pointer text is made only when a fault needs it.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// The document itself.
    Root,
    /// A field of an object.
    Field(&'a At<'a>, &'a str),
    /// An entry of an array.
    Index(&'a At<'a>, usize),
}

impl<'a> At<'a> {
    /// The field of this object.
    #[must_use]
    pub const fn field(&'a self, name: &'a str) -> At<'a> {
        At::Field(self, name)
    }

    /// The entry of this array.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> At<'a> {
        At::Index(self, index)
    }

    fn pointer(&self) -> String {
        match self {
            At::Root => String::new(),
            At::Field(parent, name) => format!("{}/{}", parent.pointer(), name.replace('~', "~0").replace('/', "~1")),
            At::Index(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }
}

/// Why a value does not fit: code and message.
pub type Misfit = (&'static str, String);

/// The fields of one object; remembers which were asked for.
pub struct Fields<'v> {
    map: &'v Map<String, Value>,
    asked: Vec<&'static str>,
}

impl<'v> Fields<'v> {
    /// The fields of the value, or a fault if it is no object.
    pub fn of(value: &'v Value, at: &At<'_>, faults: &mut Faults) -> Option<Self> {
        let map = value.as_object();
        if map.is_none() {
            faults.add(at, "wrong_type", "must be an object");
        }
        map.map(|map| Self { map, asked: Vec::new() })
    }

    /// The value of a field; null counts as absent.
    pub fn raw(&mut self, name: &'static str) -> Option<&'v Value> {
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A field that may be absent.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        at: &At<'_>,
        faults: &mut Faults,
        read: impl FnOnce(&'v Value) -> Result<T, Misfit>,
    ) -> Option<T> {
        match read(self.raw(name)?) {
            Ok(value) => Some(value),
            Err((code, message)) => {
                faults.add(&at.field(name), code, message);
                None
            }
        }
    }

    /// A field that must be there; `None` always comes with a fault.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        at: &At<'_>,
        faults: &mut Faults,
        read: impl FnOnce(&'v Value) -> Result<T, Misfit>,
    ) -> Option<T> {
        if self.raw(name).is_none() {
            faults.add(&at.field(name), "missing_field", "is required");
            return None;
        }
        self.optional(name, at, faults, read)
    }

    /// Notes a fault for every field that nobody asked for.
    pub fn refuse_others(&self, at: &At<'_>, faults: &mut Faults) {
        for name in self.map.keys().filter(|name| !self.asked.contains(&name.as_str())) {
            let known = self.asked.join(", ");
            faults.add(&at.field(name), "unknown_field", format!("is not known here; known are {known}"));
        }
    }
}

/// A text.
///
/// # Errors
/// `wrong_type` if it is something else.
pub fn text(value: &Value) -> Result<&str, Misfit> {
    value.as_str().ok_or_else(|| ("wrong_type", "must be a text".into()))
}

/// An id.
///
/// # Errors
/// `wrong_type` if it is no text, `invalid_id` if it does not match the pattern of ids.
pub fn id<'v, T: TryFrom<&'v str, Error = InvalidId>>(value: &'v Value) -> Result<T, Misfit> {
    T::try_from(text(value)?).map_err(|e| ("invalid_id", e.to_string()))
}

/// An array.
///
/// # Errors
/// `wrong_type` if it is something else, `too_many` or `out_of_range` if its length is outside `min..=max`.
pub fn array(min: usize, max: usize) -> impl Fn(&Value) -> Result<&Vec<Value>, Misfit> {
    move |value| {
        let items = value.as_array().ok_or_else(|| ("wrong_type", "must be an array".to_owned()))?;
        match items.len() {
            n if n > max => Err(("too_many", format!("has {n} entries, at most {max} are allowed"))),
            n if n < min => Err(("out_of_range", format!("has {n} entries, at least {min} are needed"))),
            _ => Ok(items),
        }
    }
}

/// A finite number in `min..=max`.
///
/// # Errors
/// `wrong_type` if it is something else, `out_of_range` if it lies outside.
pub fn number(min: f64, max: f64) -> impl Fn(&Value) -> Result<f64, Misfit> {
    move |value| {
        let number = value.as_f64().ok_or_else(|| ("wrong_type", "must be a number".to_owned()))?;
        if (min..=max).contains(&number) { Ok(number) } else { Err(("out_of_range", format!("must be from {min} to {max}"))) }
    }
}

/// A finite number in `0 < number <= max`.
///
/// # Errors
/// As [`number`].
pub fn positive(max: f64) -> impl Fn(&Value) -> Result<f64, Misfit> {
    move |value| match number(0.0, max)(value) {
        Ok(zero) if zero <= 0.0 => Err(("out_of_range", format!("must be greater than 0 and at most {max}"))),
        other => other,
    }
}

/// A whole number in `0..=max`.
///
/// # Errors
/// `wrong_type` if it is something else, `out_of_range` if it lies outside.
pub fn whole(max: u64) -> impl Fn(&Value) -> Result<u64, Misfit> {
    move |value| {
        let number = value.as_f64().ok_or_else(|| ("wrong_type", "must be a whole number".to_owned()))?;
        match value.as_u64() {
            Some(whole) if whole <= max => Ok(whole),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "exact below 2^53, checked against max")]
            None if number.fract() == 0.0 && (0.0..=9e15).contains(&number) && number as u64 <= max => Ok(number as u64),
            _ => Err(("out_of_range", format!("must be a whole number from 0 to {max}"))),
        }
    }
}

/// A controller time in `min..=max` seconds, exact to a tenth.
///
/// # Errors
/// `wrong_type` if it is no number, `out_of_range` if it lies outside or between two tenths.
pub fn seconds(min: f64, max: f64) -> impl Fn(&Value) -> Result<Deciseconds, Misfit> {
    move |value| {
        let seconds = number(min, max)(value)?;
        Deciseconds::try_from(seconds).map_err(|e| ("out_of_range", e.to_string()))
    }
}

/// An instant.
///
/// # Errors
/// `wrong_type` if it is no text, `invalid_time` if it is no RFC 3339 time.
pub fn time(value: &Value) -> Result<Timestamp, Misfit> {
    Timestamp::parse(text(value)?).map_err(|e| ("invalid_time", e.to_string()))
}

/// One of the given words.
///
/// # Errors
/// `wrong_type` if it is no text, `unknown_value` if it is none of the words.
pub fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Result<T, Misfit> {
    move |value| {
        let word = text(value)?;
        words.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
            ("unknown_value", format!("must be one of {}", names.join(", ")))
        })
    }
}

/// The word that [`one_of`] reads as this meaning.
pub fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words.iter().find(|(_, m)| *m == meaning).map_or("", |(name, _)| *name)
}

/// The codes that `openapi.yaml` lists for [`Fault`] between two of its lines: in backticks before a comma or a colon.
#[cfg(test)]
pub(crate) fn documented_codes(from: &str, to: &str) -> std::collections::BTreeSet<&'static str> {
    let schema = include_str!("../../openapi.yaml").split_once("\n    Fault:\n").unwrap().1;
    let section = schema.split_once(from).unwrap().1.split_once(to).unwrap().0;
    let quoted: Vec<_> = section.split('`').skip(1).collect();
    quoted.chunks(2).filter(|pair| pair.get(1).is_some_and(|after| after.starts_with([',', ':']))).map(|pair| pair[0]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_says_where_it_is_and_what_would_be_right() {
        let value = json!({"a/b": 1, "n": "x", "big": 7});
        let mut faults = Faults::default();
        let mut fields = Fields::of(&value, &At::Root, &mut faults).unwrap();
        assert_eq!(fields.required("n", &At::Root, &mut faults, number(0.0, 1.0)), None);
        assert_eq!(fields.required("gone", &At::Root, &mut faults, number(0.0, 1.0)), None);
        assert_eq!(fields.required("big", &At::Root, &mut faults, number(0.0, 1.0)), None);
        fields.refuse_others(&At::Root, &mut faults);
        let faults: Vec<_> = faults.into_vec().into_iter().map(|f| (f.pointer, f.code)).collect();
        let expected = [("/n", "wrong_type"), ("/gone", "missing_field"), ("/big", "out_of_range"), ("/a~1b", "unknown_field")];
        assert_eq!(faults, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_zero_fraction() {
        assert_eq!(whole(255)(&json!(82.0)), Ok(82));
        for value in [json!(82.5), json!(256), json!(-1), json!(1e300)] {
            assert_eq!(whole(255)(&value).unwrap_err().0, "out_of_range", "{value}");
        }
    }

    #[test]
    fn positive_refuses_zero() {
        assert_eq!(positive(5.0)(&json!(0)).unwrap_err().0, "out_of_range");
        assert_eq!(positive(5.0)(&json!(5)), Ok(5.0));
    }
}
