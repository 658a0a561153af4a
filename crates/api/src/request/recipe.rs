//! A tier, or numbers of one's own.

use spotreel_domain::model::Model;
use spotreel_domain::quality::{Quality, Recipe};

use super::TaskRequest;

impl TaskRequest {
    /// What holds where the request gives no number. A tier is whole: distilled weights are right for their own four
    /// steps only, and a task that says `best` beside `steps: 10` would be called what it is not.
    pub(super) fn settle_recipe(
        &self,
        model: Model,
        refuse: &mut impl FnMut(&str, &str, String),
    ) -> Recipe {
        let Some(quality) = self.quality else {
            return Quality::Standard.recipe(model);
        };
        let own = [
            ("steps", self.steps.is_some()),
            ("guidance", self.guidance.is_some()),
            ("guidance_high_noise", self.guidance_high_noise.is_some()),
            ("shift", self.shift.is_some()),
        ];
        for (field, _) in own.into_iter().filter(|(_, given)| *given) {
            let message =
                format!("quality says what {field} is: give {field} or quality, not both");
            refuse(field, "either", message);
        }
        quality.recipe(model)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{ImageSource, Valid, Violation};

    fn request(model: Model) -> TaskRequest {
        TaskRequest {
            model: model.as_str().into(),
            prompt: "a red fox in the snow".into(),
            image: (model == Model::I2vA14b).then(|| ImageSource::S3Key("images/fox".into())),
            ..TaskRequest::default()
        }
    }

    fn validate(request: &TaskRequest) -> Result<Valid, Vec<Violation>> {
        request.validate(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_tier_is_a_whole_recipe() {
        use Quality::{Best, Fast, Standard};
        let cases = [
            (Model::Ti2v5b, Fast, 4, (1.0, None), 5.0),
            (Model::Ti2v5b, Standard, 50, (5.0, None), 5.0),
            (Model::Ti2v5b, Best, 60, (5.0, None), 5.0),
            (Model::T2vA14b, Fast, 4, (1.0, Some(1.0)), 5.0),
            (Model::T2vA14b, Standard, 40, (3.0, Some(4.0)), 12.0),
            (Model::I2vA14b, Best, 60, (3.5, Some(3.5)), 5.0),
        ];
        for (model, quality, steps, guidance, shift) in cases {
            let asked = TaskRequest {
                quality: Some(quality),
                ..request(model)
            };
            let spec = validate(&asked).unwrap().spec;
            let got = (
                spec.steps,
                (spec.guidance, spec.guidance_high_noise),
                spec.shift,
            );
            assert_eq!(got, (steps, guidance, shift), "{model} {quality}");
            assert_eq!(spec.quality, Some(quality));
        }
    }

    #[test]
    fn a_tier_and_numbers_of_ones_own_are_refused_field_by_field() {
        let both = TaskRequest {
            quality: Some(Quality::Best),
            steps: Some(10),
            shift: Some(3.0),
            ..request(Model::T2vA14b)
        };
        let broken = validate(&both).unwrap_err();
        let named: Vec<_> = broken
            .iter()
            .map(|one| (one.field.as_str(), one.rule.as_str()))
            .collect();
        assert_eq!(named, [("steps", "either"), ("shift", "either")]);
    }

    #[test]
    fn what_says_nothing_of_quality_hashes_as_it_always_did() {
        // Written down before there were tiers: another value would turn a repeated submission into a conflict.
        let hash = validate(&request(Model::Ti2v5b)).unwrap().content_hash;
        assert_eq!(
            hash,
            "ddf1240b8fdd17dc864af64332d2c5467aa797e063b5d14b6bdc73c9969558d8"
        );
        let standard = TaskRequest {
            quality: Some(Quality::Standard),
            ..request(Model::Ti2v5b)
        };
        assert_ne!(validate(&standard).unwrap().content_hash, hash);
    }
}
