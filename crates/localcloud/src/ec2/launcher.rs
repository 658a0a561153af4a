//! What a handler may do beside reading the state: launch, end, and ask who it works for.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Ec2;
use super::error::Refusal;
use super::machine::CONSOLE;
use super::query::Node;
use super::state::{Blueprint, Cause, Ec2State, Instance, InstanceOrder, Lifecycle};
use super::xml::Element;

/// What a handler returns.
pub(crate) type Answer = Result<Element, Refusal>;

pub(crate) struct Launcher<'a> {
    pub(super) ec2: &'a Arc<Ec2>,
    /// Cloud time of the call.
    pub now: Timestamp,
}

impl Launcher<'_> {
    /// For a call that was found to be right: if it was only a rehearsal, this is its end.
    pub fn dry_run(&self, request: &Node) -> Result<(), Refusal> {
        if !request.flag("DryRun")? {
            return Ok(());
        }
        let message = "Request would have succeeded, but DryRun flag is set.";
        Err(Refusal::new("DryRunOperation", message))
    }

    /// vCPUs; the account has as many of either kind.
    pub fn quota(&self, _: Lifecycle) -> u32 {
        self.ec2.config.vcpu_quota
    }

    pub fn region(&self) -> &str {
        &self.ec2.config.region
    }

    pub fn account_id(&self) -> &str {
        &self.ec2.config.account_id
    }

    pub fn launch(&self, state: &mut Ec2State, blueprint: Blueprint) -> String {
        self.ec2.launch(state, blueprint)
    }

    pub fn end(&self, instance: &mut Instance, cause: Cause) {
        self.ec2.end(instance, cause, InstanceOrder::Stop);
    }

    /// What the machine has written; nothing before it has booted.
    pub fn console(&self, id: &str) -> Vec<u8> {
        let path = self.ec2.config.dir.join(id).join(CONSOLE);
        std::fs::read(path).unwrap_or_default()
    }

    pub fn end_later(&self, id: &str, span: Duration) {
        self.ec2.end_later(id, span);
    }
}
