//! People's own LoRAs: changes of a model's weights, by the names that operators gave them in the bucket.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use spotreel_domain::model::{Expert, Model};
use spotreel_domain::task::{MAX_LORA_NAME, TaskLora, is_lora_name};

use super::TaskRequest;

/// The LoRAs of one task. Each is merged into gigabytes of weights before the first step.
pub const MAX_LORAS: usize = 3;
/// Twice what people use; a negative strength takes a style away.
pub const LORA_STRENGTH: RangeInclusive<f64> = -4.0..=4.0;

/// One LoRA as a client asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRequest {
    pub name: String,
    #[serde(default = "full")]
    pub strength: f64,
    /// The one expert that it changes; absent: all that it has weights for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<Expert>,
}

/// Not one more is read than a task may have: there may be as many as a body holds.
pub(super) fn few<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<LoraRequest>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<LoraRequest>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of LoRAs")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut loras = Vec::new();
            while let Some(lora) = list.next_element()? {
                if loras.len() == MAX_LORAS {
                    return Err(A::Error::custom(format_args!(
                        "too many LoRAs: a task has at most {MAX_LORAS}"
                    )));
                }
                loras.push(lora);
            }
            Ok(loras)
        }
    }

    from.deserialize_seq(Few)
}

fn full() -> f64 {
    1.0
}

impl From<&LoraRequest> for TaskLora {
    fn from(asked: &LoraRequest) -> Self {
        Self {
            name: asked.name.clone(),
            strength: asked.strength,
            expert: asked.expert,
            sha256: None,
        }
    }
}

impl TaskRequest {
    pub(super) fn check_loras(&self, model: Model, refuse: &mut impl FnMut(&str, &str, String)) {
        if self.loras.len() > MAX_LORAS {
            let message = format!("a task has at most {MAX_LORAS} LoRAs");
            refuse("loras", "count", message);
            return;
        }
        for (index, lora) in self.loras.iter().enumerate() {
            let field = |name: &str| format!("loras[{index}].{name}");
            if !is_lora_name(&lora.name) {
                let message = format!(
                    "a LoRA's name has 1 to {MAX_LORA_NAME} of the characters a-z, 0-9, '.', '_' and '-', and begins with \
                     a letter or digit"
                );
                refuse(&field("name"), "name", message);
            }
            if !LORA_STRENGTH.contains(&lora.strength) {
                let (low, high) = (LORA_STRENGTH.start(), LORA_STRENGTH.end());
                let message = format!("strength is {low} to {high}");
                refuse(&field("strength"), "range", message);
            }
            if lora.expert.is_some() && !model.has_two_experts() {
                let message = format!("{model} has one expert only: leave expert out");
                refuse(&field("expert"), "two_experts", message);
            }
            let twice = |other: &LoraRequest| {
                other.name == lora.name
                    && (other.expert.is_none()
                        || lora.expert.is_none()
                        || other.expert == lora.expert)
            };
            if self.loras[..index].iter().any(twice) {
                let message = format!("the LoRA {:?} is named twice for one expert", lora.name);
                refuse(&field("name"), "once", message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn request(model: &str, loras: &str) -> TaskRequest {
        TaskRequest {
            model: model.into(),
            prompt: "a red fox".into(),
            loras: serde_json::from_str(loras).unwrap(),
            ..TaskRequest::default()
        }
    }

    fn broken(model: &str, loras: &str) -> Vec<(String, String)> {
        let broken = request(model, loras).validate(Timestamp::UNIX_EPOCH);
        let broken = broken.unwrap_err().into_iter();
        broken.map(|one| (one.field, one.rule)).collect()
    }

    fn rule(field: &str, rule: &str) -> (String, String) {
        (field.to_owned(), rule.to_owned())
    }

    #[test]
    fn loras_are_part_of_what_is_asked() {
        let plain = request("t2v-A14B", "[]");
        let styled = request("t2v-A14B", r#"[{"name": "fox-style", "strength": 0.8}]"#);
        let high = request(
            "t2v-A14B",
            r#"[{"name": "fox-style", "strength": 0.8, "expert": "high"}]"#,
        );
        let valid = |request: &TaskRequest| request.validate(Timestamp::UNIX_EPOCH).unwrap();
        let first = valid(&plain);
        assert_ne!(valid(&styled).content_hash, first.content_hash);
        assert_ne!(valid(&high).content_hash, valid(&styled).content_hash);
        assert_ne!(styled.digest(), plain.digest());
        assert_ne!(styled.digest(), high.digest());
        assert_eq!(valid(&styled).fields_that_differ(&first.spec), ["loras"]);
        assert_eq!(valid(&high).spec.loras[0].expert, Some(Expert::High));
        let full = request("ti2v-5B", r#"[{"name": "fox"}]"#);
        assert!((valid(&full).spec.loras[0].strength - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_replaced_lora_makes_no_conflict_of_the_same_request() {
        let asked = request("ti2v-5B", r#"[{"name": "fox"}]"#);
        let valid = asked.validate(Timestamp::UNIX_EPOCH).unwrap();
        let mut first = valid.spec.clone();
        first.loras[0].sha256 = Some("aa".into());
        assert!(valid.fields_that_differ(&first).is_empty());
    }

    #[test]
    fn each_broken_rule_of_a_lora_is_named() {
        let four = r#"{"model":"t2v-A14B","prompt":"a","loras":[{"name":"a"},{"name":"b"},{"name":"c"},{"name":"d"}]}"#;
        let error = serde_json::from_str::<TaskRequest>(four).unwrap_err();
        assert!(error.to_string().contains("at most 3"), "{error}");
        let bad = r#"[{"name":"../x","strength":9,"expert":"low"},{"name":"b"}]"#;
        assert_eq!(
            broken("ti2v-5B", bad),
            [
                rule("loras[0].name", "name"),
                rule("loras[0].strength", "range"),
                rule("loras[0].expert", "two_experts"),
            ]
        );
        let twice = r#"[{"name":"a","expert":"low"},{"name":"a"}]"#;
        assert_eq!(broken("t2v-A14B", twice), [rule("loras[1].name", "once")]);
        let both = r#"[{"name":"a","expert":"low"},{"name":"a","expert":"high"}]"#;
        let both = request("t2v-A14B", both).validate(Timestamp::UNIX_EPOCH);
        assert!(both.is_ok(), "{both:?}");
    }
}
