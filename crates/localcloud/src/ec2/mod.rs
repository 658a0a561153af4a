//! EC2: a fleet API over a Spot market, whose instances are processes of this machine.
#![allow(dead_code, unused_imports)]

mod bill;
mod imds;
mod machine;
mod market;
