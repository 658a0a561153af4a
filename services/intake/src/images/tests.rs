mod beside;
mod corpus;
mod hostile;

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageFormat};

use super::png::crc32;
use super::*;

const FORMATS: [ImageFormat; 3] = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP];

fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let paint = |x: u32, y: u32| {
        let [a, b, ..] = (x * 7 + y * 3).to_le_bytes();
        image::Rgb([a, b, a ^ b])
    };
    let drawn = image::RgbImage::from_fn(width, height, paint);
    encode(&DynamicImage::ImageRgb8(drawn), format)
}

/// The size of what is stored.
fn size(bytes: &[u8]) -> Result<(u32, u32), Flaw> {
    examine(bytes).map(|taken| (taken.width, taken.height))
}

fn pixels(bytes: &[u8]) -> image::RgbImage {
    read(&examine(bytes).unwrap().bytes)
}

/// What engines see.
fn read(png: &[u8]) -> image::RgbImage {
    let stored = image::load_from_memory_with_format(png, ImageFormat::Png).unwrap();
    assert_eq!(stored.color(), image::ColorType::Rgb8);
    stored.into_rgb8()
}

fn rule(bytes: &[u8]) -> &'static str {
    examine(bytes).unwrap_err().rule()
}

/// With a chunk after the header, its checksum right.
fn png_with(chunk: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = picture(160, 128, ImageFormat::Png);
    let mut added = u32::try_from(data.len()).unwrap().to_be_bytes().to_vec();
    added.extend(chunk);
    added.extend(data);
    let sum = crc32(&added[4..]);
    added.extend(sum.to_be_bytes());
    bytes.splice(33..33, added);
    bytes
}

/// The IHDR of a good picture, overwritten, its checksum right.
fn png_of(width: u32, height: u32, depth: u8) -> Vec<u8> {
    let mut bytes = picture(160, 128, ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    bytes[24] = depth;
    let sum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Where the frame of a JPEG begins: at its precision.
fn frame_of(jpeg: &[u8]) -> usize {
    jpeg.windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap()
        + 4
}

#[test]
fn pictures_are_taken() {
    for format in FORMATS {
        assert_eq!(size(&picture(160, 128, format)), Ok((160, 128)));
        assert_eq!(size(&picture(128, 512, format)), Ok((128, 512)));
    }
    let clear = DynamicImage::ImageRgba8(image::RgbaImage::new(200, 200));
    let grey = DynamicImage::ImageLuma8(image::GrayImage::new(200, 200));
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        assert_eq!(size(&encode(&clear, format)), Ok((200, 200)));
    }
    for format in FORMATS {
        assert_eq!(size(&encode(&grey, format)), Ok((200, 200)));
    }
}

#[test]
fn what_lies_on_its_side_is_measured_upright() {
    // One entry: orientation, a short, turn right.
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut jpeg = picture(160, 128, ImageFormat::Jpeg);
    let mut segment = vec![0xff, 0xe1];
    segment.extend(u16::try_from(exif.len() + 2).unwrap().to_be_bytes());
    segment.extend(exif);
    jpeg.splice(2..2, segment);
    assert_eq!(size(&jpeg), Ok((128, 160)));
    assert_eq!(size(&png_with(b"eXIf", &exif[6..])), Ok((128, 160)));
    // Damaged camera data is nobody's harm.
    assert_eq!(size(&png_with(b"eXIf", b"MM\0")), Ok((160, 128)));
}

#[test]
fn only_pictures_are_taken() {
    for other in [
        &b""[..],
        b"GIF89a",
        b"RIFF\0\0\0\0WAVE",
        b"\x89PNG",
        b"<svg/>",
        b"\xff\xd8",
    ] {
        assert_eq!(rule(other), "format");
    }
    assert_eq!(rule(&vec![0; MAX_IMAGE_BYTES + 1]), "size");
    let text = |text: &str| decode_text(text).unwrap_err().violations[0].rule.clone();
    assert_eq!(text("%%%"), "base64");
    assert_eq!(text(&"A".repeat(MAX_IMAGE_BYTES / 3 * 4 + 64)), "size");
}

#[test]
fn no_part_of_a_picture_is_a_picture() {
    for format in FORMATS {
        let whole = picture(160, 128, format);
        for end in 0..whole.len() {
            let flaw = size(&whole[..end]).unwrap_err();
            assert!(
                matches!(flaw, Flaw::Format | Flaw::Truncated),
                "{format:?} {end} {flaw}"
            );
        }
    }
}

#[test]
fn damage_is_found() {
    let mut png = picture(160, 128, ImageFormat::Png);
    let data = png.windows(4).position(|name| name == b"IDAT").unwrap() + 20;
    png[data] ^= 0xff;
    assert_eq!(rule(&png), "decodes");
    let mut webp = picture(160, 128, ImageFormat::WebP);
    webp[25..60].fill(0xff);
    assert_eq!(rule(&webp), "decodes");
    let mut jpeg = picture(160, 128, ImageFormat::Jpeg);
    let tables = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xc4])
        .unwrap();
    jpeg[tables + 5..tables + 21].fill(0xff);
    assert_eq!(rule(&jpeg), "decodes");
    let mut twice = picture(160, 128, ImageFormat::Jpeg);
    let frame = frame_of(&twice);
    let copy = twice[frame - 4..frame + 15].to_vec();
    twice.splice(frame - 4..frame - 4, copy);
    assert_eq!(rule(&twice), "decodes");
}

/// Each of these is a few hundred bytes and would be up to 17 GB of pixels.
#[test]
fn a_bomb_is_known_by_its_header() {
    assert_eq!(rule(&png_of(65_535, 65_535, 8)), "sides");
    assert_eq!(rule(&png_of(u32::MAX, u32::MAX, 8)), "sides");
    assert_eq!(rule(&png_of(0, 128, 8)), "sides");
    assert_eq!(rule(&png_of(8_192, 8_192, 8)), "pixels");
    assert_eq!(rule(&png_of(8_192, 1_024, 8)), "aspect");
    assert_eq!(rule(&picture(127, 300, ImageFormat::Jpeg)), "sides");
    let mut jpeg = picture(160, 128, ImageFormat::Jpeg);
    let frame = frame_of(&jpeg);
    jpeg[frame + 1..frame + 5].fill(0xff);
    assert_eq!(rule(&jpeg), "sides");
    let mut webp = picture(160, 128, ImageFormat::WebP);
    let lossless = webp.windows(4).position(|name| name == b"VP8L").unwrap() + 9;
    webp[lossless..lossless + 4].fill(0xff);
    assert_eq!(rule(&webp), "sides");
    // A header that fits, pixels that do not follow.
    assert_eq!(rule(&png_of(6_000, 6_000, 8)), "decodes");
}

#[test]
fn a_jpeg_has_an_end_of_scans() {
    let jpeg = picture(160, 128, ImageFormat::Jpeg);
    let scan = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .unwrap();
    let mut many = jpeg[..scan].to_vec();
    many.extend(jpeg[scan..jpeg.len() - 2].repeat(200));
    many.extend([0xff, 0xd9]);
    assert_eq!(
        size(&many),
        Err(Flaw::Damaged("a JPEG of too many scans".into()))
    );
}

#[test]
fn what_would_come_out_wrong_is_refused() {
    assert_eq!(rule(&png_with(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0])), "still");
    let deep = DynamicImage::ImageRgb16(image::ImageBuffer::new(200, 200));
    assert_eq!(rule(&encode(&deep, ImageFormat::Png)), "depth");
    let mut jpeg = picture(160, 128, ImageFormat::Jpeg);
    let frame = frame_of(&jpeg);
    jpeg[frame + 5] = 4;
    assert_eq!(rule(&jpeg), "color");
    jpeg[frame] = 12;
    assert_eq!(rule(&jpeg), "depth");
    // An extended WebP that says it moves.
    let still = picture(160, 128, ImageFormat::WebP);
    let mut moving = still.clone();
    let mut chunk = b"VP8X\x0a\0\0\0\x02\0\0\0".to_vec();
    chunk.extend([159, 0, 0, 127, 0, 0]);
    moving.splice(12..12, chunk.clone());
    let length = u32::try_from(moving.len() - 8).unwrap();
    moving[4..8].copy_from_slice(&length.to_le_bytes());
    assert_eq!(rule(&moving), "still");
    moving[20] = 0;
    assert_eq!(size(&moving), Ok((160, 128)));
    // Its canvas has another size than its picture.
    moving[24] = 100;
    assert_eq!(rule(&moving), "decodes");
}

/// The name of every chunk of a PNG.
fn chunks(png: &[u8]) -> Vec<String> {
    let (mut rest, mut names) = (&png[8..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        names.push(String::from_utf8(rest[4..8].to_vec()).unwrap());
        rest = &rest[12 + length..];
    }
    names.dedup();
    names
}

#[test]
fn nothing_but_pixels_is_stored() {
    let text = [&b"comment\0"[..], &[b'x'; 2_000_000]].concat();
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    for png in [
        png_with(b"tEXt", &text),
        // Compressed texts and profiles that are none.
        png_with(b"zTXt", b"comment\0\0not deflated"),
        png_with(b"iTXt", &text),
        png_with(b"iCCP", b"profile\0\0not deflated"),
        png_with(b"eXIf", exif),
        png_with(b"teSt", b"?"),
    ] {
        let taken = examine(&png).unwrap();
        assert_eq!(chunks(&taken.bytes), ["IHDR", "IDAT", "IEND"]);
        assert_eq!(
            examine(&taken.bytes).unwrap(),
            taken,
            "it is taken again as it is"
        );
    }
    let plain = pixels(&picture(160, 128, ImageFormat::Png));
    assert_eq!(pixels(&png_with(b"tEXt", &text)), plain);
    let turned = pixels(&png_with(b"eXIf", exif));
    assert_eq!(turned, image::imageops::rotate90(&plain));
}

#[test]
fn a_wrong_checksum_spoils_what_the_picture_can_do_without_and_nothing_else() {
    let plain = pixels(&picture(160, 128, ImageFormat::Png));
    for chunk in [b"tEXt", b"iCCP", b"eXIf", b"tRNS", b"gAMA"] {
        let mut png = png_with(chunk, b"a\0\0b");
        let sum = 33 + 8 + 4;
        png[sum] ^= 1;
        assert_eq!(pixels(&png), plain, "{chunk:?}");
    }
    let mut header = picture(160, 128, ImageFormat::Png);
    header[29] ^= 1;
    let flaw = examine(&header).unwrap_err();
    assert_eq!(flaw.rule(), "decodes");
    assert!(
        flaw.to_string().starts_with("the image is damaged ("),
        "{flaw}"
    );
}

#[test]
fn what_is_transparent_lies_on_black() {
    let drawn = image::RgbaImage::from_fn(128, 128, |x, _| {
        image::Rgba([200, 100, 50, if x < 64 { 0 } else { 128 }])
    });
    let stored = pixels(&encode(&DynamicImage::ImageRgba8(drawn), ImageFormat::Png));
    assert_eq!(stored.get_pixel(0, 0).0, [0, 0, 0]);
    assert_eq!(stored.get_pixel(127, 0).0, [100, 50, 25]);
}

#[test]
fn colours_are_those_that_the_profile_says() {
    let drawn = image::RgbImage::from_pixel(128, 128, image::Rgb([200, 100, 50]));
    let with = |profile: Vec<u8>| {
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_icc_profile(profile).unwrap();
        let rgb = image::ExtendedColorType::Rgb8;
        encoder.write_image(&drawn, 128, 128, rgb).unwrap();
        pixels(&bytes).get_pixel(5, 5).0
    };
    let wide = moxcms::ColorProfile::new_display_p3().encode().unwrap();
    let [red, green, blue] = with(wide);
    // The same colour takes more red and less of the others where red is less red.
    assert!(
        red > 205 && green < 100 && blue < 45,
        "{red} {green} {blue}"
    );
    let same = moxcms::ColorProfile::new_srgb().encode().unwrap();
    let near = with(same).into_iter().zip([200_u8, 100, 50]);
    assert!(
        near.clone()
            .all(|(found, wanted)| found.abs_diff(wanted) <= 1)
    );
    assert_eq!(with(b"no profile at all".to_vec()), [200, 100, 50]);
}

/// 32 MB of zeros after a good profile take a few kilobytes in the file.
#[test]
fn a_profile_that_inflates_to_more_than_the_picture_allows_is_not_held() {
    let drawn = image::RgbImage::from_pixel(128, 128, image::Rgb([200, 100, 50]));
    let with = |length| {
        let mut profile = moxcms::ColorProfile::new_display_p3().encode().unwrap();
        profile.resize(length, 0);
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_icc_profile(profile).unwrap();
        let rgb = image::ExtendedColorType::Rgb8;
        encoder.write_image(&drawn, 128, 128, rgb).unwrap();
        bytes
    };
    let profile_of = |bytes: &[u8]| {
        let limits = decode::limits(&Header::read(bytes).unwrap());
        let read = Cursor::new(bytes);
        let mut decoder = image::codecs::png::PngDecoder::with_limits(read, limits).unwrap();
        decoder.icc_profile().unwrap().map(|profile| profile.len())
    };
    let large = with(2 << 20);
    assert_eq!(profile_of(&large), Some(2 << 20));
    let bomb = with(32 << 20);
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    assert_eq!(profile_of(&bomb), None);
    assert_eq!(pixels(&bomb).get_pixel(5, 5).0, [200, 100, 50]);
}

#[test]
fn what_is_stored_is_known_by_a_size_that_pictures_have() {
    let sha256 = "a".repeat(64);
    let key = format!("images/{sha256}.png");
    let known = |key: &str, mark: &str| {
        let found = ObjectInfo {
            bytes: 1,
            sha256: Some(sha256.clone()),
            metadata: HashMap::from([(MARK.to_owned(), mark.to_owned())]),
            last_modified: None,
        };
        kept(key, &found).map(|kept| (kept.width, kept.height))
    };
    assert_eq!(known(&key, "400x300"), Some((400, 300)));
    for mark in [
        "100x0",
        "0x100",
        "127x128",
        "128x8193",
        "128x513",
        "8192x8192",
        "400",
        "x",
        "-1x400",
    ] {
        assert_eq!(known(&key, mark), None, "{mark}");
    }
    for other in [
        format!("images/{sha256}"),
        format!("images/{sha256}.jpeg"),
        format!("images/{}.png", "b".repeat(64)),
    ] {
        assert_eq!(known(&other, "400x300"), None, "{other}");
    }
}

#[test]
fn a_large_picture_is_reduced_and_keeps_its_shape() {
    let flat = |width, height| encode(&DynamicImage::new_rgb8(width, height), ImageFormat::Png);
    assert_eq!(size(&flat(4_000, 3_000)), Ok((2_828, 2_121)));
    let (width, height) = size(&flat(8_192, 2_048)).unwrap();
    assert!(
        width <= 4 * height && width * height <= 6_000_000,
        "{width}x{height}"
    );
    assert_eq!(size(&flat(3_000, 2_000)), Ok((3_000, 2_000)));
}
