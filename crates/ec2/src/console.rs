//! The console output of an instance, to explain why it ended.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::{CallError, Ec2};

const OPERATION: &str = "GetConsoleOutput";

impl Ec2 {
    /// What EC2 has kept of it: up to 64 KiB, for about an hour after the machine's end. Empty: nothing yet.
    pub async fn console(&self, instance: &str) -> Result<String, CallError> {
        let call = self.client.get_console_output().instance_id(instance);
        let answer = call.send().await;
        let answer = answer.map_err(|error| CallError::new(OPERATION, error))?;
        let output = BASE64.decode(answer.output().unwrap_or_default());
        let output = output.map_err(|_| CallError::malformed(OPERATION, "no base64"))?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}
