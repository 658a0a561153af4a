//! How an error is told in one line.

use std::error::Error;

/// The error with all its causes, as `what failed: why: why that`. Some libraries' errors tell their cause themselves:
/// such a cause is not said twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("the log cannot be read")]
        Log(#[source] Box<Failure>),
        #[error("the server does not answer: {0}")]
        Server(#[source] Box<Failure>),
        #[error("timed out")]
        Late,
    }

    #[test]
    fn each_cause_is_told_once() {
        let late = || Box::new(Failure::Late);
        assert_eq!(chain(&Failure::Late), "timed out");
        assert_eq!(
            chain(&Failure::Log(late())),
            "the log cannot be read: timed out"
        );
        let server = Failure::Server(late());
        assert_eq!(
            chain(&Failure::Log(Box::new(server))),
            "the log cannot be read: the server does not answer: timed out"
        );
    }
}
