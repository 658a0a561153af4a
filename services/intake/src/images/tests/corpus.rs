//! The fixed part of what `make fuzz-pictures` does with thousands.

use std::path::Path;

use super::*;

/// Files of the fuzzers' corpus, made by `fuzz_images.py` of the Wan engine; with `SPOTREEL_PICTURES` those of a directory.
/// Then what becomes of each is written into `intake/` there, for `compare_images.py`.
#[test]
fn sound_pixels_are_taken_whatever_stands_beside_them() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fuzz/corpus/images"
    );
    let chosen = std::env::var("SPOTREEL_PICTURES").ok();
    let folder = Path::new(chosen.as_deref().unwrap_or(corpus));
    let answers = chosen.is_some().then(|| folder.join("intake"));
    if let Some(answers) = &answers {
        std::fs::create_dir_all(answers).unwrap();
    }
    let (mut sound, mut taken, mut refused, mut faults) = (0, 0, 0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let answer = examine(&std::fs::read(&path).unwrap());
        if let Some(answers) = &answers {
            let (end, bytes) = match &answer {
                Ok(stored) => ("png", stored.bytes.clone()),
                Err(flaw) => ("refused", flaw.to_string().into_bytes()),
            };
            std::fs::write(answers.join(format!("{name}.{end}")), bytes).unwrap();
        }
        match (wanted(folder, name), answer) {
            (Wanted::Any, Ok(_)) => taken += 1,
            (Wanted::Any, Err(_)) => refused += 1,
            (_, Err(flaw)) => faults.push(format!("{name}: {flaw}")),
            (wanted, Ok(stored)) => {
                sound += 1;
                let found = chunks(&stored.bytes);
                assert_eq!(found, ["IHDR", "IDAT", "IEND"], "{name}");
                if let Wanted::Pixels(wanted) = wanted
                    && read(&stored.bytes) != wanted
                {
                    faults.push(format!("{name}: another picture"));
                }
            }
        }
    }
    println!("{sound} sound ones taken; of the others {taken} taken, {refused} refused");
    assert!(faults.is_empty(), "{}: {faults:#?}", faults.len());
    assert!(sound >= 50 && taken > 10 && refused > 10);
}

enum Wanted {
    /// Damaged or animated ones, and what fuzzers found.
    Any,
    /// Other colours than those of its base.
    Picture,
    Pixels(image::RgbImage),
}

/// By the name: what must come of it, how it lies, what was done and to which base.
fn wanted(folder: &Path, name: &str) -> Wanted {
    let parts: Vec<_> = name.splitn(5, '-').collect();
    match parts[..] {
        ["sound", turn, _, _, base] => {
            let base = std::fs::read(folder.join(format!("base-{base}"))).unwrap();
            let mut picture = DynamicImage::from(pixels(&base));
            let turn = image::metadata::Orientation::from_exif(turn.parse().unwrap()).unwrap();
            picture.apply_orientation(turn);
            Wanted::Pixels(picture.into_rgb8())
        }
        ["base", ..] | ["taken" | "alike", _, _, _, _] => Wanted::Picture,
        _ => Wanted::Any,
    }
}
