//! Whether a prompt is longer than the text encoder takes, by a bound that never refuses one that fits.
//!
//! The bound is the fewest pieces of the tokenizer's vocabulary that spell the text. The tokenizer picks likely pieces, not
//! few ones, so it never has fewer. What its normaliser may drop or change counts for nothing here.

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Of the text encoder, with the token that ends a text.
pub const MAX_TOKENS: usize = 512;
/// What stands for a space before a word.
const SPACE: char = '\u{2581}';
/// Normalisers under which letters and digits in NFKC stay what they are.
const NORMALIZERS: [&str; 7] = [
    "Sequence",
    "Precompiled",
    "NFKC",
    "Nmt",
    "Replace",
    "Strip",
    "Prepend",
];
const PRE_TOKENIZERS: [&str; 3] = ["Sequence", "Metaspace", "WhitespaceSplit"];

/// The pieces of a tokenizer.
#[derive(Debug)]
pub struct Vocabulary {
    /// Sorted, so that those that begin alike stand together.
    pieces: Vec<Box<str>>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Option<Step>,
    #[serde(default)]
    pre_tokenizer: Option<Step>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Unigram,
}

#[derive(Deserialize)]
struct Step {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, alias = "pretokenizers")]
    normalizers: Vec<Step>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

#[derive(Deserialize)]
struct Unigram {
    #[serde(rename = "type")]
    kind: String,
    vocab: Vec<(Box<str>, f64)>,
}

impl Step {
    fn is_among(&self, known: &[&str]) -> bool {
        let mut inner = self.normalizers.iter();
        known.contains(&self.kind.as_str()) && inner.all(|step| step.is_among(known))
    }
}

impl Vocabulary {
    /// Of a `tokenizer.json`. None for a tokenizer of another kind than umT5's, of which nothing is known.
    pub fn read(file: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(file).ok()?;
        let plain = |step: &Option<Step>, known: &[&str]| {
            step.as_ref().is_none_or(|step| step.is_among(known))
        };
        if file.model.kind != "Unigram"
            || !plain(&file.normalizer, &NORMALIZERS)
            || !plain(&file.pre_tokenizer, &PRE_TOKENIZERS)
        {
            return None;
        }
        let added = file.added_tokens.into_iter();
        let mut pieces: Vec<Box<str>> = file
            .model
            .vocab
            .into_iter()
            .map(|(piece, _)| piece)
            .chain(added.map(|token| token.content.into()))
            .collect();
        pieces.sort_unstable();
        pieces.dedup();
        (!pieces.is_empty()).then_some(Self { pieces })
    }

    /// How many tokens the text has at least, where that is more than are taken.
    pub fn too_many(&self, text: &str) -> Option<usize> {
        let text: String = text.nfkc().filter(|c| !is_invisible(*c)).collect();
        // A character has a piece at most, and the text has one more token for its end.
        if text.chars().count() < MAX_TOKENS {
            return None;
        }
        let words = text.split(|c| !is_plain(c));
        let tokens = 1 + words.map(|word| self.fewest(word)).sum::<usize>();
        (tokens > MAX_TOKENS).then_some(tokens)
    }

    /// The fewest pieces that spell the word, with or without a space before it. What no piece spells counts for nothing.
    fn fewest(&self, word: &str) -> usize {
        if word.is_empty() {
            return 0;
        }
        let spaced: String = std::iter::once(SPACE).chain(word.chars()).collect();
        let ends: Vec<_> = spaced
            .char_indices()
            .map(|(at, _)| at)
            .chain([spaced.len()])
            .collect();
        let last = ends.len() - 1;
        let mut fewest = vec![usize::MAX; last + 1];
        (fewest[0], fewest[1]) = (0, 0);
        for from in 0..last {
            let mut spelt = false;
            let mut pieces = self.pieces.as_slice();
            for to in from + 1..=last {
                let part = &spaced[ends[from]..ends[to]];
                pieces = &pieces[pieces.partition_point(|piece| **piece < *part)..];
                pieces = &pieces[..pieces.partition_point(|piece| piece.starts_with(part))];
                // Where no piece begins with this part, none begins with a longer one.
                let Some(first) = pieces.first() else { break };
                if **first == *part {
                    spelt |= to == from + 1;
                    fewest[to] = fewest[to].min(fewest[from] + 1);
                }
            }
            if !spelt {
                fewest[from + 1] = fewest[from + 1].min(fewest[from]);
            }
        }
        fewest[last]
    }
}

/// A character that stays what it is, and may share a piece with its neighbours. Viramas and tone marks, which stand inside
/// the words of Hindi, Bengali, Tamil and Thai, are neither letters nor digits.
fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || c.is_ascii_graphic() || is_combining_mark(c)
}

/// What a normaliser may drop, so that its neighbours meet: spaces without width, joiners, directions, variations.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}' | '\u{e0000}'..='\u{e0fff}')
        || (c.is_control() && !c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vocabulary() -> Vocabulary {
        vocabulary_of(&[
            "\u{2581}a",
            "\u{2581}fox",
            "\u{2581}",
            "a",
            "f",
            "o",
            "x",
            "s",
            "狐狸",
            "狐",
            "狸",
            ",",
        ])
    }

    fn vocabulary_of(words: &[&str]) -> Vocabulary {
        let vocab: Vec<_> = words.iter().map(|word| json!([word, -1.0])).collect();
        let file = json!({
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": ""}]},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}"},
            "added_tokens": [{"id": 1, "content": "</s>"}],
            "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab},
        });
        Vocabulary::read(file.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn prompts_of_more_tokens_than_are_taken_are_found() {
        let words = vocabulary();
        assert_eq!(
            words.too_many(&"a ".repeat(511)),
            None,
            "with its end it is 512"
        );
        assert_eq!(words.too_many(&"a ".repeat(512)), Some(513));
        assert_eq!(words.too_many(&"foxs ".repeat(300)), Some(601));
        assert_eq!(words.too_many(&"狐狸".repeat(511)), None);
        assert_eq!(words.too_many(&"狐狸，".repeat(300)), Some(601));
        // Full-width letters are the same tokens.
        assert_eq!(words.too_many(&"ａ　".repeat(512)), Some(513));
    }

    #[test]
    fn what_a_normaliser_may_drop_counts_for_nothing() {
        let words = vocabulary();
        assert_eq!(words.too_many(&"\u{200d}\u{fe0f}🦊".repeat(600)), None);
        assert_eq!(words.too_many(&"f\u{200b}ox ".repeat(511)), None);
        assert_eq!(words.too_many(&"ж".repeat(1000)), None, "one unknown token");
        assert_eq!(words.too_many(&"</s>".repeat(511)), None);
    }

    #[test]
    fn a_piece_may_go_across_a_virama_or_a_tone_mark() {
        // "Hindi" in Hindi, with the virama U+094D; "water" in Thai, with the tone mark U+0E49.
        for word in ["हिन्दी", "น้ำ"] {
            let word: String = word.nfkc().collect();
            let characters = word.chars().map(String::from);
            let pieces: Vec<_> = characters.chain([word.clone()]).collect();
            let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
            let parts = vocabulary_of(&pieces);
            let spelt = |count| parts.too_many(&format!("{word} ").repeat(count));
            assert_eq!(spelt(511), None, "{word}");
            assert_eq!(spelt(512), Some(513), "{word}");
        }
    }

    #[test]
    fn the_longest_piece_is_found_behind_shorter_ones() {
        let words = vocabulary_of(&["a", "aa", "aaaa", "aaaab", "b"]);
        assert_eq!(words.too_many(&"aaaa".repeat(511)), None);
        assert_eq!(words.too_many(&"aaaa".repeat(512)), Some(513));
        assert_eq!(words.too_many(&"aaaab".repeat(512)), Some(513));
        // Three letters "a" take two pieces.
        assert_eq!(words.too_many(&"aaab".repeat(300)), Some(901));
    }

    #[test]
    fn of_another_kind_of_tokenizer_nothing_is_known() {
        for file in [
            json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}),
            json!({"normalizer": {"type": "Lowercase"}, "model": {"type": "Unigram", "vocab": [["a", 0.0]]}}),
            json!({"model": {"type": "Unigram", "vocab": []}}),
        ] {
            assert!(Vocabulary::read(file.to_string().as_bytes()).is_none());
        }
    }
}
