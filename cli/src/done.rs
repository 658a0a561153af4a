//! How a command ended.

/// What a command came to; an error is `Failed` with a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Well,
    Failed,
}
