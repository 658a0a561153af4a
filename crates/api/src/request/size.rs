//! A video's size: the one that was asked for, or that of the picture.

use spotreel_domain::model::{ImageRule, Limits, Model};

use super::TaskRequest;

/// More than this share of a picture cut away is told to the client: 16:9 loses 2 % in Wan's own 1280x704.
pub const CROP_WARNING_PERCENT: u32 = 3;

/// Sizes that name only an area, for the model that keeps its picture's shape.
const AREAS: [(&str, usize); 2] = [("720p", 0), ("480p", 2)];

impl TaskRequest {
    /// The size, as far as the request says it, and whether the picture's shape is still to decide it.
    pub(super) fn settle_size(
        &self,
        limits: &Limits,
        refuse: &mut impl FnMut(&str, &str, String),
    ) -> ((u32, u32), bool) {
        let sizes = limits.sizes;
        let Some(text) = &self.size else {
            return (sizes[0], self.image.is_some());
        };
        if limits.image == ImageRule::Required
            && let Some((_, at)) = AREAS.iter().find(|(name, _)| name == text)
        {
            return (sizes[*at], true);
        }
        match sizes
            .iter()
            .find(|(width, height)| *text == format!("{width}x{height}"))
        {
            Some(size) => (*size, false),
            None => {
                let names = size_names(limits).join(", ");
                let message = format!("size {text:?} is not one of {names} for this model");
                refuse("size", "known", message);
                (sizes[0], false)
            }
        }
    }
}

/// All that `size` may say.
pub fn size_names(limits: &Limits) -> Vec<String> {
    let sizes = limits.sizes.iter().map(|(w, h)| format!("{w}x{h}"));
    let areas = AREAS.iter().map(|(name, _)| (*name).to_owned());
    match limits.image {
        ImageRule::Required => sizes.chain(areas).collect(),
        _ => sizes.collect(),
    }
}

/// The size for a picture of this shape. i2v-A14B keeps the shape within the area of `size`, as the authors' code does;
/// of ti2v-5B's sizes it is the one that cuts the least away.
pub fn size_of_picture(model: Model, size: (u32, u32), picture: (u32, u32)) -> (u32, u32) {
    let limits = model.limits();
    if limits.image != ImageRule::Required {
        let cut = |size: &&(u32, u32)| cropped(picture, **size);
        let nearest = limits.sizes.iter().min_by(|a, b| cut(a).total_cmp(&cut(b)));
        return nearest.copied().unwrap_or(size);
    }
    let area = u64::from(size.0) * u64::from(size.1);
    let side = |long: u32, short: u32| {
        let side = (area * u64::from(long) / u64::from(short)).isqrt();
        let side = u32::try_from(side).expect("an area of a model is far below 2^32");
        side / PATCH * PATCH
    };
    // A side of nothing is taken for one pixel: sizes that are read back from a store must not end the program.
    let (width, height) = (picture.0.max(1), picture.1.max(1));
    (side(width, height), side(height, width))
}

/// Sides of the A14B models are multiples of this: a latent's pixels times the two that a patch takes.
const PATCH: u32 = 16;

/// How much of the picture is cut away to fill the size, in whole percent.
pub fn crop_percent(picture: (u32, u32), size: (u32, u32)) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is 0 to 100"
    )]
    let percent = (cropped(picture, size) * 100.0).round() as u32;
    percent
}

/// As a share.
fn cropped((width, height): (u32, u32), (to_width, to_height): (u32, u32)) -> f64 {
    let shape = |width: u32, height: u32| f64::from(width.max(1)) / f64::from(height.max(1));
    let (is, to) = (shape(width, height), shape(to_width, to_height));
    1.0 - (is / to).min(to / is)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{ImageSource, Valid, Violation};

    fn validate(model: Model, size: Option<&str>) -> Result<Valid, Vec<Violation>> {
        let request = TaskRequest {
            model: model.as_str().into(),
            prompt: "a red fox".into(),
            size: size.map(str::to_owned),
            image: Some(ImageSource::S3Key("images/fox".into())),
            ..TaskRequest::default()
        };
        request.validate(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_picture_keeps_its_shape_in_the_area_of_i2v_as_the_authors_have_it() {
        // Of `WanI2V.generate`: round(sqrt(area * h / w) // 8 // 2 * 2) * 8, and the same for the width.
        let cases = [
            ((1280, 720), (1280, 720)),
            ((720, 1280), (720, 1280)),
            ((1024, 1024), (960, 960)),
            ((4000, 3000), (1104, 816)),
            ((832, 480), (1248, 720)),
            ((4000, 1000), (1920, 480)),
        ];
        for (picture, size) in cases {
            let model = Model::I2vA14b;
            assert_eq!(
                size_of_picture(model, (1280, 720), picture),
                size,
                "{picture:?}"
            );
            assert!(crop_percent(picture, size) <= CROP_WARNING_PERCENT);
        }
        let small = size_of_picture(Model::I2vA14b, (832, 480), (1024, 1024));
        assert_eq!(small, (624, 624));
    }

    #[test]
    fn a_picture_without_a_side_divides_by_nothing() {
        for picture in [(100, 0), (0, 100), (0, 0)] {
            for model in [Model::I2vA14b, Model::Ti2v5b] {
                let size = size_of_picture(model, (1280, 704), picture);
                assert!(crop_percent(picture, size) <= 100, "{picture:?} {size:?}");
            }
        }
    }

    #[test]
    fn of_the_sizes_of_ti2v_the_picture_takes_the_nearest() {
        let size = |picture| size_of_picture(Model::Ti2v5b, (1280, 704), picture);
        assert_eq!(size((1920, 1080)), (1280, 704));
        assert_eq!(size((1080, 1920)), (704, 1280));
        assert_eq!(size((3000, 4000)), (704, 1280));
        assert_eq!(crop_percent((1920, 1080), (1280, 704)), 2);
        assert_eq!(crop_percent((1024, 1024), (1280, 704)), 45);
    }

    #[test]
    fn the_picture_decides_only_where_no_size_is_given() {
        for model in [Model::Ti2v5b, Model::I2vA14b] {
            assert!(validate(model, None).unwrap().size_of_picture);
            let given = validate(model, Some(&size_names(&model.limits())[1])).unwrap();
            assert!(!given.size_of_picture);
            assert_ne!(
                given.content_hash,
                validate(model, None).unwrap().content_hash
            );
        }
        let area = validate(Model::I2vA14b, Some("480p")).unwrap();
        assert!(area.size_of_picture);
        assert_eq!((area.spec.width, area.spec.height), (832, 480));
        let exact = validate(Model::I2vA14b, Some("832x480")).unwrap();
        assert_ne!(area.content_hash, exact.content_hash);
        let refused = validate(Model::Ti2v5b, Some("480p")).unwrap_err();
        assert_eq!(refused[0].field, "size");
    }
}
