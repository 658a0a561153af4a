//! Money, exactly: whole micro-dollars, never a float that adds up to something else.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

const MICROS: i64 = 1_000_000;
const DECIMALS: usize = 6;

/// US dollars in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, pattern = r"^-?[0-9]+\.[0-9]{6}$", example = "0.270000")]
pub struct Usd(i64);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of dollars: write 0.25 or $0.25, with at most six decimals")]
pub struct BadUsd(String);

impl Usd {
    pub const ZERO: Self = Self(0);

    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn from_cents(cents: i64) -> Self {
        Self(cents * (MICROS / 100))
    }

    pub const fn micros(self) -> i64 {
        self.0
    }

    pub fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Cost of `span` at this hourly rate, rounded to the nearest micro-dollar.
    pub fn per_hour_for(self, span: Duration) -> Self {
        const HOUR_MS: i128 = 3_600_000;
        let milliseconds = i128::try_from(span.as_millis()).unwrap_or(i128::MAX);
        let exact = i128::from(self.0).saturating_mul(milliseconds);
        let half = if exact < 0 { -HOUR_MS / 2 } else { HOUR_MS / 2 };
        Self(i64::try_from((exact + half) / HOUR_MS).unwrap_or(i64::MAX))
    }

    pub fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(i64::from(count)))
    }

    /// `percent` of it, rounded up: 110 is ten percent more.
    pub fn percent(self, percent: u32) -> Self {
        let exact = i128::from(self.0) * i128::from(percent);
        let rounded = exact.div_euclid(100) + i128::from(exact.rem_euclid(100) != 0);
        Self(i64::try_from(rounded).unwrap_or(i64::MAX))
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).max(0))
    }
}

impl Add for Usd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Usd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// At least four decimals, as Spot prices are written; six if needed.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_decimal();
        let text = text.strip_suffix("00").unwrap_or(&text);
        match text.strip_prefix('-') {
            Some(text) => write!(f, "-${text}"),
            None => write!(f, "${text}"),
        }
    }
}

impl Usd {
    /// Plain digits with six decimals, as the EC2 API takes prices.
    pub fn to_decimal(self) -> String {
        let (whole, rest) = (
            self.0.unsigned_abs() / MICROS.unsigned_abs(),
            self.0.unsigned_abs() % MICROS.unsigned_abs(),
        );
        let sign = if self.0 < 0 { "-" } else { "" };
        format!("{sign}{whole}.{rest:06}")
    }
}

impl FromStr for Usd {
    type Err = BadUsd;
    fn from_str(text: &str) -> Result<Self, BadUsd> {
        let bad = || BadUsd(text.to_owned());
        let plain = text.trim();
        let (sign, plain) = match plain.strip_prefix('-') {
            Some(plain) => (-1, plain),
            None => (1, plain),
        };
        let plain = plain.strip_prefix('$').unwrap_or(plain);
        let (whole, decimals) = plain.split_once('.').unwrap_or((plain, ""));
        let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
        // AWS writes "0.377000000": zeros beyond the sixth decimal say nothing.
        let kept = decimals
            .get(..DECIMALS.min(decimals.len()))
            .ok_or_else(bad)?;
        let surplus = decimals.get(kept.len()..).ok_or_else(bad)?;
        if whole.is_empty() || !digits(whole) || !digits(kept) || surplus.bytes().any(|c| c != b'0')
        {
            return Err(bad());
        }
        let whole: i64 = whole.parse().map_err(|_| bad())?;
        let rest: i64 = format!("{kept:0<DECIMALS$}").parse().map_err(|_| bad())?;
        let micros = whole.checked_mul(MICROS).and_then(|m| m.checked_add(rest));
        Ok(Self(sign * micros.ok_or_else(bad)?))
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.to_decimal())
    }
}

/// From `"0.25"`, `"$0.25"` or the number 0.25.
impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Usd;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of dollars, as \"$0.25\" or 0.25")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Usd, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Usd, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Usd, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Usd, E> {
                self.visit_str(&number.to_string())
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_read_and_write() {
        for (text, micros, shown) in [
            ("0.25", 250_000, "$0.2500"),
            ("$1.006", 1_006_000, "$1.0060"),
            ("0.377000000", 377_000, "$0.3770"),
            ("0.000001", 1, "$0.000001"),
            ("-2", -2_000_000, "-$2.0000"),
            ("12", 12_000_000, "$12.0000"),
        ] {
            let usd: Usd = text.parse().unwrap();
            assert_eq!(
                (usd.micros(), usd.to_string().as_str()),
                (micros, shown),
                "{text}"
            );
        }
        for bad in [
            "",
            "$",
            ".",
            "0.0000001",
            "1e3",
            "0,25",
            "0.2 5",
            "∞",
            "99999999999999999999",
            "1.é",
        ] {
            assert!(bad.parse::<Usd>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_hour_costs_the_rate_and_a_second_its_share() {
        let rate = Usd::from_micros(360_000);
        assert_eq!(rate.per_hour_for(Duration::from_secs(3600)), rate);
        assert_eq!(
            rate.per_hour_for(Duration::from_secs(1)),
            Usd::from_micros(100)
        );
        assert_eq!(
            Usd::from_micros(300_001).percent(110),
            Usd::from_micros(330_002)
        );
    }

    #[test]
    fn configuration_may_write_a_number_or_a_text() {
        for json in ["0.3", "\"0.3\"", "\"$0.30\""] {
            assert_eq!(
                serde_json::from_str::<Usd>(json).unwrap(),
                Usd::from_cents(30),
                "{json}"
            );
        }
    }
}
