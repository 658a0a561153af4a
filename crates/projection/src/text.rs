//! What of a prompt is indexed, and how words are searched for.
//!
//! FTS5's tokenizer takes a run of letters for one word. Chinese, Japanese and Korean text has no spaces between words, so each
//! of its characters becomes a word of its own, and what is searched for becomes a phrase of such words: any part of the text
//! is found.

use unicode_normalization::UnicodeNormalization;

/// The prompt as FTS5 is given it.
pub(crate) fn indexed(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    for c in text.nfkc() {
        if stands_alone(c) {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(if c.is_control() { ' ' } else { c });
        }
    }
    spaced
}

/// What people type as an expression of FTS5: each word, and each part between double quotes, is a phrase, and all of them
/// must be there. None: there is no word in it. Nothing that is typed is read as a part of FTS5's language.
pub(crate) fn expression(typed: &str) -> Option<String> {
    // First of all: some other quotes become plain ones by it.
    let typed: String = typed.nfkc().collect();
    let quoted = typed.split('"').enumerate();
    let phrases = quoted.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().collect::<Vec<_>>(),
        _ => vec![part],
    });
    let phrases: Vec<String> = phrases
        .filter(|phrase| phrase.chars().any(char::is_alphanumeric))
        .map(|phrase| format!("\"{}\"", indexed(phrase).trim()))
        .collect();
    (!phrases.is_empty()).then(|| phrases.join(" AND "))
}

/// Characters of scripts that put no space between words.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{3005}'..='\u{3007}'       // 々 〆 〇
        | '\u{3040}'..='\u{312F}'     // Hiragana, Katakana, Bopomofo
        | '\u{31A0}'..='\u{31BF}'     // Bopomofo, extended
        | '\u{31F0}'..='\u{31FF}'     // Katakana, extended
        | '\u{3400}'..='\u{4DBF}'     // Han, extension A
        | '\u{4E00}'..='\u{9FFF}'     // Han
        | '\u{AC00}'..='\u{D7AF}'     // Hangul
        | '\u{F900}'..='\u{FAFF}'     // Han, for compatibility
        | '\u{20000}'..='\u{3FFFF}'   // Han, later extensions
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chinese_character_is_a_word() {
        assert_eq!(indexed("雪中的red狐狸2号"), " 雪  中  的 red 狐  狸 2 号 ");
        assert_eq!(indexed("ＦＯＸ\u{0}a\tb"), "FOX a b");
    }

    #[test]
    fn what_is_typed_becomes_quoted_phrases() {
        let of = |typed| expression(typed).unwrap_or_default();
        assert_eq!(of("red fox"), r#""red" AND "fox""#);
        assert_eq!(of(r#"a "red fox" runs"#), r#""a" AND "red fox" AND "runs""#);
        assert_eq!(of("狐狸"), r#""狐  狸""#);
        assert_eq!(
            of(r#"fox OR (NEAR* col:a^ -b"#),
            r#""fox" AND "OR" AND "(NEAR*" AND "col:a^" AND "-b""#
        );
        assert_eq!(of(r#"open "end"#), r#""open" AND "end""#);
        // A wide quote is a quote, and a null ends nothing.
        assert_eq!(of("＂red fox＂"), r#""red fox""#);
        assert_eq!(of("a\u{0}b"), r#""a b""#);
        assert_eq!(expression(r#" "" * ! "#), None);
    }
}
