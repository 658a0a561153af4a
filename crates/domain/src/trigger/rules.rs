//! The rules as they are configured: each is a preset that a person may change, or `"off"`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::money::Usd;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// When a batch is wanted, how large it is, and what it may cost. One that is absent is its preset; `"off"` is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    #[serde(with = "off")]
    pub length: Option<LengthRule>,
    #[serde(with = "off")]
    pub age: Option<AgeRule>,
    #[serde(with = "off")]
    pub price: Option<PriceRule>,
    #[serde(with = "off")]
    pub schedule: Option<ScheduleRule>,
    #[serde(with = "off")]
    pub max_wait: Option<MaxWaitRule>,
    /// Off unless configured: machines that stay cost money while nothing renders.
    #[serde(with = "off")]
    pub hybrid: Option<HybridRule>,
    pub budgets: Budgets,
    pub sizing: Sizing,
}

/// Enough tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LengthRule {
    pub at_least: u64,
}

/// Long enough since the last batch served; before the first one, since the oldest task came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgeRule {
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    pub at_least: u64,
}

/// Cheap enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceRule {
    /// Dollars for an hour of one GPU.
    pub below: Usd,
    pub at_least: u64,
}

/// At a time of day, once a slot, as long as the slot's window is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleRule {
    /// Minute, hour, day of month, month, day of week.
    pub cron: String,
    /// A name of the IANA time zone database.
    pub zone: String,
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    pub at_least: u64,
}

/// No task waits for ever: this one has no least number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaxWaitRule {
    #[serde(with = "humantime_serde")]
    pub after: Duration,
}

/// Batches below one rate of arrivals, machines that stay above another; in between, what there is stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HybridRule {
    /// Tasks an hour.
    pub on_demand_below: u64,
    /// Tasks an hour.
    pub resident_above: u64,
    /// Minimum time between two changes of mode.
    #[serde(with = "humantime_serde")]
    pub dwell: Duration,
    /// How many units stay; absent: as many as the arrivals need.
    pub resident_units: Option<u32>,
}

/// The most that may be spent. A launch is held against them before it is asked for; but for the one of a batch they count
/// all pools together. None: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budgets {
    #[serde(with = "off")]
    pub per_hour: Option<Usd>,
    #[serde(with = "off")]
    pub per_batch: Option<Usd>,
    #[serde(with = "off")]
    pub per_day: Option<Usd>,
    #[serde(with = "off")]
    pub per_month: Option<Usd>,
}

/// Of a card of which nothing is known, as on machines of one's own.
pub const USUAL_TASKS_PER_GPU_HOUR: f64 = 20.0;

/// How many units a batch gets. A unit is one GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sizing {
    /// Used for a model on a card until finished tasks have said what it takes. Absent: what the cost model says, or
    /// [`USUAL_TASKS_PER_GPU_HOUR`] where it knows none of the pool's cards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_per_gpu_hour: Option<f64>,
    /// Time in which the queue should be empty.
    #[serde(with = "humantime_serde")]
    pub target: Duration,
    pub min: u32,
    pub max: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            length: Some(LengthRule::default()),
            age: Some(AgeRule::default()),
            price: Some(PriceRule::default()),
            schedule: Some(ScheduleRule::default()),
            max_wait: Some(MaxWaitRule::default()),
            hybrid: None,
            budgets: Budgets::default(),
            sizing: Sizing::default(),
        }
    }
}

impl Default for LengthRule {
    fn default() -> Self {
        Self { at_least: 100 }
    }
}

impl Default for AgeRule {
    fn default() -> Self {
        Self {
            after: 4 * HOUR,
            at_least: 20,
        }
    }
}

impl Default for PriceRule {
    fn default() -> Self {
        Self {
            below: Usd::from_cents(25),
            at_least: 50,
        }
    }
}

impl Default for ScheduleRule {
    fn default() -> Self {
        Self {
            cron: "0 2 * * *".to_owned(),
            zone: "America/New_York".to_owned(),
            window: 10 * MINUTE,
            at_least: 10,
        }
    }
}

impl Default for MaxWaitRule {
    fn default() -> Self {
        Self { after: 6 * HOUR }
    }
}

impl Default for HybridRule {
    fn default() -> Self {
        Self {
            on_demand_below: 50,
            resident_above: 100,
            dwell: HOUR,
            resident_units: None,
        }
    }
}

impl Default for Sizing {
    fn default() -> Self {
        Self {
            tasks_per_gpu_hour: None,
            target: 2 * HOUR,
            min: 2,
            max: 50,
        }
    }
}

/// `"off"` for `None`: TOML has no null, and leaving a key out means its preset.
mod off {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::value::MapAccessDeserializer;
    use serde::de::{Error, IntoDeserializer, MapAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    const OFF: &str = "off";

    pub fn serialize<T: Serialize, S: Serializer>(
        rule: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match rule {
            Some(rule) => rule.serialize(to),
            None => OFF.serialize(to),
        }
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        from.deserialize_any(Switch(PhantomData))
    }

    /// No untagged enum: whatever is wrong inside a rule is told with its key.
    struct Switch<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Switch<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"off\", or what it is set to")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            if text == OFF {
                return Ok(None);
            }
            let read: Result<T, E> = T::deserialize(text.into_deserializer());
            read.map(Some)
                .map_err(|error| E::custom(format!("{error}; to switch it off write \"off\"")))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
            T::deserialize(number.into_deserializer()).map(Some)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
            T::deserialize(number.into_deserializer()).map(Some)
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
            T::deserialize(number.into_deserializer()).map(Some)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
}
