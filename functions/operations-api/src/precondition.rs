//! Conditional requests (RFC 9110, section 13): what a client knows of the content that it reads or changes.

use shared::intersection::ETag;

/// A text is no list of entity tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be * or a list of tags in double quotes, as an etag header gives them")]
pub struct InvalidTags;

/// The content of `if-match` or `if-none-match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Any content at all.
    Any,
    /// One of these: whether the tag is weak, and its text.
    Of(Vec<(bool, String)>),
}

impl Tags {
    /// Reads the value of a header.
    ///
    /// # Errors
    /// [`InvalidTags`] if it is malformed.
    pub fn parse(text: &str) -> Result<Self, InvalidTags> {
        let mut rest = text.trim();
        if rest == "*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            let (weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
            let (tag, after) = quoted.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or(InvalidTags)?;
            tags.push((weak, tag.to_owned()));
            rest = after.trim_start();
            if rest.is_empty() {
                return Ok(Self::Of(tags));
            }
            rest = rest.strip_prefix(',').ok_or(InvalidTags)?.trim_start();
        }
    }

    /// Whether the current content is meant, byte for byte; a weak tag never says so.
    pub fn match_strongly(&self, current: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Of(tags) => tags.iter().any(|(weak, tag)| !weak && tag == current),
        }
    }

    /// Whether the current content is meant, or an equivalent one.
    pub fn match_weakly(&self, current: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Of(tags) => tags.iter().any(|(_, tag)| tag == current),
        }
    }
}

/// Under which condition a write may happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The content must be one of these.
    pub if_match: Option<Tags>,
    /// The content must be none of these.
    pub if_none_match: Option<Tags>,
}

impl Precondition {
    /// Whether what is stored meets the condition.
    pub fn holds(&self, stored: Option<ETag>) -> bool {
        let stored = stored.map(|tag| tag.to_string());
        let matched = self.if_match.as_ref().is_none_or(|tags| stored.as_ref().is_some_and(|tag| tags.match_strongly(tag)));
        let unmatched = self.if_none_match.as_ref().is_none_or(|tags| stored.as_ref().is_none_or(|tag| !tags.match_weakly(tag)));
        matched && unmatched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tags: &[(bool, &str)]) -> Tags {
        Tags::Of(tags.iter().map(|&(weak, tag)| (weak, tag.to_owned())).collect())
    }

    #[test]
    fn a_header_holds_one_tag_or_many_or_stands_for_any() {
        assert_eq!(Tags::parse(" * "), Ok(Tags::Any));
        assert_eq!(Tags::parse(r#""a""#), Ok(of(&[(false, "a")])));
        assert_eq!(Tags::parse(r#"W/"a" ,"b,c", """#), Ok(of(&[(true, "a"), (false, "b,c"), (false, "")])));
    }

    #[test]
    fn a_malformed_header_is_refused() {
        for text in ["", "a", "\"a", "\"a\" \"b\"", "\"a\",", "w/\"a\"", "*,\"a\""] {
            assert_eq!(Tags::parse(text), Err(InvalidTags), "{text}");
        }
    }

    #[test]
    fn a_weak_tag_is_good_enough_to_skip_a_read_but_not_to_allow_a_write() {
        let weak = of(&[(true, "a")]);
        assert!(weak.match_weakly("a"));
        assert!(!weak.match_strongly("a"));
    }
}
