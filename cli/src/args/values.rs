//! Parsers of single values, shared by the commands.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

/// A duration with units, such as 30min.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(length) => Ok(length),
        Err(_) => Err("a duration is a number with a unit, such as 30min, 2h or 1d".to_owned()),
    }
}

/// A duration greater than zero.
pub fn ahead(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be greater than zero, such as 30min, 2h or 1d".to_owned()),
        length => Ok(length),
    }
}

/// How many to print.
pub fn limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(limit @ 1..) => Ok(limit),
        _ => Err(format!("must be a number from 1 to {}", u32::MAX)),
    }
}

/// The start of a list: relative to now, or absolute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    Ago(Duration),
    At(Timestamp),
}

impl Since {
    pub fn at(self, now: Timestamp) -> anyhow::Result<Timestamp> {
        match self {
            Self::At(at) => Ok(at),
            Self::Ago(ago) => Ok(now.checked_sub(SignedDuration::try_from(ago)?)?),
        }
    }
}

pub fn since(text: &str) -> Result<Since, String> {
    let text = text.trim();
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let at = text.parse::<Timestamp>().or_else(|_| {
        let civil = text.parse::<civil::DateTime>()?;
        Ok::<_, jiff::Error>(civil.to_zoned(TimeZone::UTC)?.timestamp())
    });
    at.map(Since::At).map_err(|_| {
        "must be a duration such as 2h or 1d, or a date such as 2026-11-30 or 2026-11-30T18:00Z"
            .to_owned()
    })
}

/// A subject of NATS, with wildcards.
pub fn subject(text: &str) -> Result<String, String> {
    let is_token = |token: &str| !token.is_empty() && !token.contains(char::is_whitespace);
    match text.split('.').all(is_token) {
        true => Ok(text.to_owned()),
        false => Err(
            "must be a NATS subject, such as spotreel.task.*.failed or spotreel.batch.>".to_owned(),
        ),
    }
}

/// JSON cannot express NaN or infinity: they would be sent as a missing value.
pub fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("must be a number, such as 5.0".to_owned()),
    }
}

/// The strength becomes the alpha of a LoRA, which engines accept only above 0.
pub fn strength(text: &str) -> Result<f64, String> {
    match finite(text)? {
        number if number > 0.0 => Ok(number),
        _ => Err("must be above 0; 1 leaves the matrices unchanged".to_owned()),
    }
}

pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}
