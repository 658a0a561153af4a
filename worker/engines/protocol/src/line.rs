//! Messages as lines. Neither side may make the other hold an endless line in memory.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest line either side sends or takes, newline included. Anything bulky travels as a file.
pub const MAX_LINE: usize = 1024 * 1024;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("a line is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("a line is not a message of the contract")]
    NotAMessage(#[source] serde_json::Error),
}

/// A message as one line, newline included.
///
/// # Errors
/// When the message would not fit in a line, or holds a path that is not UTF-8.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message).map_err(LineError::NotAMessage)?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    Ok(line)
}

/// The message in a line, with or without its newline.
///
/// # Errors
/// When the line is not JSON or not of the expected shape.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, LineError> {
    serde_json::from_slice(line).map_err(LineError::NotAMessage)
}

/// Cuts a stream of bytes into lines, whichever way the bytes are read.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// How much of `bytes` is known to hold no newline, so that a slow long line is not searched again and again.
    searched: usize,
}

impl LineBuffer {
    /// Adds what was read.
    pub fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// Takes the next whole line, without its newline.
    ///
    /// # Errors
    /// When a line is too long, finished or not; the stream cannot be trusted after that.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        let found = self.bytes[self.searched..].iter().position(|b| *b == b'\n');
        let Some(offset) = found else {
            self.searched = self.bytes.len();
            if self.bytes.len() >= MAX_LINE {
                return Err(LineError::TooLong);
            }
            return Ok(None);
        };
        let end = self.searched + offset;
        if end >= MAX_LINE {
            return Err(LineError::TooLong);
        }
        let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for byte in b"one\ntwo\n\nfour" {
            buffer.push(&[*byte]);
            while let Some(line) = buffer.next_line().unwrap() {
                lines.push(line);
            }
        }
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec(), b"".to_vec()]);
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut buffer = LineBuffer::default();
        buffer.push(&vec![b'x'; MAX_LINE - 1]);
        assert!(buffer.next_line().unwrap().is_none());
        buffer.push(b"x");
        assert!(matches!(buffer.next_line(), Err(LineError::TooLong)));
    }

    #[test]
    fn what_encode_makes_next_line_takes() {
        let mut buffer = LineBuffer::default();
        let text = "x".repeat(MAX_LINE - 3);
        buffer.push(&encode(&text).unwrap());
        let line = buffer.next_line().unwrap().unwrap();
        assert_eq!(decode::<String>(&line).unwrap(), text);
        assert!(encode(&(text + "x")).is_err());
    }
}
