//! JSON in streams whose records are lines, and the header of their answers.

use std::borrow::Cow;

/// JSON may hold these as they are, inside its texts; but many readers of lines end a line there.
const LINE_ENDS: [(char, &str); 3] = [
    ('\u{85}', "\\u0085"),
    ('\u{2028}', "\\u2028"),
    ('\u{2029}', "\\u2029"),
];

/// Tells nginx, and those who took the name from it, to pass on a stream as it comes.
pub(super) const UNBUFFERED: [(&str, &str); 1] = [("x-accel-buffering", "no")];

/// The same JSON, on what every reader takes for one line.
pub(super) fn one_line(json: &str) -> Cow<'_, str> {
    let mut line = Cow::Borrowed(json);
    for (end, escaped) in LINE_ENDS {
        if line.contains(end) {
            line = Cow::Owned(line.replace(end, escaped));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_readers_take_for_the_end_of_a_line_is_escaped() {
        let text = "a\u{85}b\u{2028}c\u{2029}d";
        let json = serde_json::to_string(text).unwrap();
        let line = one_line(&json);
        assert_eq!(line, r#""a\u0085b\u2028c\u2029d""#);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
