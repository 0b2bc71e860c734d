//! From the bytes of a request to the text of each reading.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Most readings in one request.
pub const READINGS_MAX: usize = 500;

/// Why a body has no readings to check. The same body would be refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no text.
    #[error("byte {0} is not UTF-8")]
    Utf8(usize),
    /// It is no JSON.
    #[error("{0}")]
    Json(String),
    /// Its `readings` are no list.
    #[error("must be an array")]
    NoList,
    /// It has more than [`READINGS_MAX`] readings.
    #[error("{0} readings, at most {READINGS_MAX} are allowed")]
    TooMany(usize),
}

/// Cuts a body, which is one reading, an array of readings or `{"readings": [...]}`, into the texts of its readings.
///
/// Only the borders are looked for, without recursion: what is wrong within one reading is not found here, so it refuses
/// that reading alone, however deep it nests.
///
/// # Errors
/// [`Unreadable`] says why the body as a whole is refused.
pub fn split(body: &[u8]) -> Result<Vec<&RawValue>, Unreadable> {
    #[derive(Deserialize)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        readings: Option<&'a RawValue>,
    }
    let text = std::str::from_utf8(body).map_err(|e| Unreadable::Utf8(e.valid_up_to()))?;
    let unreadable = |e: serde_json::Error| Unreadable::Json(e.to_string());
    let readings: Vec<&RawValue> = match text.trim_ascii_start().as_bytes().first() {
        Some(b'[') => serde_json::from_str(text).map_err(unreadable)?,
        Some(b'{') => match serde_json::from_str::<Wrapped<'_>>(text).map_err(unreadable)?.readings {
            Some(list) => serde_json::from_str(list.get()).map_err(|_| Unreadable::NoList)?,
            None => vec![serde_json::from_str(text).map_err(unreadable)?],
        },
        _ => vec![serde_json::from_str(text).map_err(unreadable)?],
    };
    if readings.len() > READINGS_MAX { Err(Unreadable::TooMany(readings.len())) } else { Ok(readings) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Result<Vec<&str>, Unreadable> {
        split(body.as_bytes()).map(|readings| readings.into_iter().map(RawValue::get).collect())
    }

    #[test]
    fn one_reading_an_array_and_the_wrapped_form_are_the_same() {
        for body in [r#"{"a":1}"#, r#" [ {"a":1} ] "#, r#"{"x":[],"readings":[{"a":1}]}"#] {
            assert_eq!(texts(body), Ok(vec![r#"{"a":1}"#]), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_within_one_reading_leaves_the_others_alone() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for odd in ["1e400", "7", "null", r#""\ud800""#, &deep] {
            assert_eq!(texts(&format!("[1,{odd}]")), Ok(vec!["1", odd]));
        }
    }

    #[test]
    fn nesting_without_end_is_not_json_and_does_no_harm() {
        for open in ["[", r#"{"a":"#, r#"{"readings":"#] {
            assert!(matches!(texts(&open.repeat(100_000)), Err(Unreadable::Json(_))), "{open}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (body, place) in
            [("", "line 1 column 0"), ("[1,]", "line 1 column 4"), ("[1]\n[2]", "line 2 column 1"), ("NaN", "line 1 column 1")]
        {
            let Err(Unreadable::Json(message)) = texts(body) else { panic!("{body} was taken") };
            assert!(message.ends_with(place), "{body}: {message}");
        }
        assert!(matches!(split(b"[\"\xff\"]"), Err(Unreadable::Utf8(2))));
    }

    #[test]
    fn readings_given_twice_are_refused_because_one_list_would_be_lost() {
        assert!(matches!(texts(r#"{"readings":[1],"readings":[2]}"#), Err(Unreadable::Json(_))));
    }

    #[test]
    fn readings_that_are_no_list_are_no_readings() {
        assert_eq!(texts(r#"{"readings":{"a":1}}"#), Err(Unreadable::NoList));
    }

    #[test]
    fn five_hundred_readings_are_taken_and_one_more_is_not() {
        let body = |n: usize| format!("[{}]", vec!["0"; n].join(","));
        assert_eq!(texts(&body(500)).unwrap().len(), 500);
        assert_eq!(texts(&body(501)), Err(Unreadable::TooMany(501)));
    }
}
