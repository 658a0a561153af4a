//! Prompts as they come, and as they are kept.

use std::borrow::Cow;

use spotreel_domain::model::MAX_PROMPT_CHARS;
use unicode_normalization::UnicodeNormalization;

pub fn check_text(
    field: &str,
    text: &str,
    min_chars: usize,
    refuse: &mut impl FnMut(&str, &str, String),
) -> String {
    let range = format!("{field} has {min_chars} to {MAX_PROMPT_CHARS} characters");
    // Before any work on it: it may be as large as a body.
    if !has_at_most(text, MAX_PROMPT_CHARS) {
        refuse(field, "length", format!("{range}, not more"));
        return String::new();
    }
    let text = normal(text);
    let chars = text.chars().count();
    if chars < min_chars || chars > MAX_PROMPT_CHARS || (min_chars > 0 && text.trim().is_empty()) {
        refuse(field, "length", format!("{range}, not {chars}"));
    }
    if text
        .chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        refuse(
            field,
            "printable",
            format!("{field} holds a control character: remove it"),
        );
    }
    text
}

/// A text as it is kept: composed, with the line ends of Unix, and without the byte order mark that editors on Windows put
/// in front.
pub fn normal(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = match text.contains('\r') {
        true => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => Cow::Borrowed(text),
    };
    // What is ASCII is composed already, and most texts are.
    match text.is_ascii() {
        true => text.into_owned(),
        false => text.nfc().collect(),
    }
}

/// Looks no further than it must.
pub fn has_at_most(text: &str, chars: usize) -> bool {
    text.chars().nth(chars).is_none()
}
