//! Whole numbers as JSON writers have them: to JavaScript and to many others, `25.0` is 25.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Above it, not every whole number is an f64.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// For `deserialize_with`; null is none.
pub fn optional<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_option(Optional(PhantomData))
}

/// For `deserialize_with`.
pub fn required<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<T, D::Error> {
    // JSON gives floats to whoever asks for a number; the query of a URL makes one out of its text.
    deserializer.deserialize_u64(Whole(PhantomData))
}

struct Optional<T>(PhantomData<T>);

impl<'de, T: TryFrom<u64>> Visitor<'de> for Optional<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        required(deserializer).map(Some)
    }
}

struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        if number.fract() != 0.0 {
            return Err(E::invalid_type(Unexpected::Float(number), &self));
        }
        if !(0.0..=MAX_EXACT).contains(&number) {
            return Err(E::invalid_value(Unexpected::Float(number), &self));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole and within the range of exact numbers"
        )]
        self.visit_u64(number as u64)
    }
}

#[cfg(test)]
mod tests {
    use crate::{BatchesQuery, KeyOrder, ListQuery, TaskRequest};

    #[test]
    fn a_whole_float_is_a_whole_number() {
        let read = |text: &str| serde_json::from_str::<TaskRequest>(text);
        let request = read(r#"{"frames":25.0,"steps":5e1,"seed":7.0}"#).unwrap();
        let numbers = (request.frames, request.steps, request.seed);
        assert_eq!(numbers, (Some(25), Some(50), Some(7)));
        assert_eq!(read(r#"{"frames":null}"#).unwrap().frames, None);
        let list: ListQuery = serde_json::from_str(r#"{"limit":25.0,"cursor":1e3}"#).unwrap();
        assert_eq!((list.limit, list.cursor), (Some(25), Some(1_000)));
        let batches: BatchesQuery = serde_json::from_str(r#"{"limit":25.0}"#).unwrap();
        assert_eq!(batches.limit, Some(25));
        let order = r#"{"owner":"anna","tasks_per_minute":60.0}"#;
        let order: KeyOrder = serde_json::from_str(order).unwrap();
        assert_eq!(order.tasks_per_minute, Some(60));
        for bad in [
            "25.5",
            "-1",
            "-1.0",
            "1e300",
            "4294967296.0",
            "\"25\"",
            "true",
        ] {
            assert!(read(&format!("{{\"frames\":{bad}}}")).is_err(), "{bad}");
        }
    }
}
