//! What the task asked for, and the check of the size.

use super::error::GateError;

/// What the task asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation {
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    pub fps: u32,
}

impl Expectation {
    pub(super) fn check_size(&self, width: u32, height: u32) -> Result<(), GateError> {
        if (width, height) == (self.width, self.height) {
            return Ok(());
        }
        Err(GateError::Size {
            width,
            height,
            expected_width: self.width,
            expected_height: self.height,
        })
    }
}
