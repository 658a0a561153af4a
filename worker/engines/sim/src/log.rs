//! The log is stderr. When the worker is gone nobody reads it: `eprintln!` would panic then, and take the one thread with
//! it that ends this process.

use std::fmt::Display;
use std::io::{self, Write};

pub fn log(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
