//! What stands beside the pixels of a JPEG: browsers show the picture, so it is taken, and as they show it.

use super::*;

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 2).unwrap();
    [&[0xff, marker], &length.to_be_bytes()[..], body].concat()
}

/// Right after its beginning.
fn jpeg_with(more: &[u8]) -> Vec<u8> {
    let mut jpeg = picture(160, 128, ImageFormat::Jpeg);
    jpeg.splice(2..2, more.iter().copied());
    jpeg
}

/// Without the segments of that marker in front of the scan.
fn without(jpeg: &[u8], marker: u8) -> Vec<u8> {
    let (mut kept, mut at) = (jpeg[..2].to_vec(), 2);
    while jpeg[at + 1] != 0xda {
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        if jpeg[at + 1] != marker {
            kept.extend_from_slice(&jpeg[at..end]);
        }
        at = end;
    }
    kept.extend_from_slice(&jpeg[at..]);
    kept
}

fn position(jpeg: &[u8], marker: u8) -> usize {
    let found = jpeg.windows(2).position(|pair| pair == [0xff, marker]);
    found.unwrap()
}

#[test]
fn faults_of_segments_that_no_pixel_needs_are_passed_over() {
    let plain = pixels(&picture(160, 128, ImageFormat::Jpeg));
    for more in [
        // Short ones, and transforms that are none.
        segment(0xee, b"Adobe\0\x64\0\0\0\0"),
        segment(0xee, b"Adobe"),
        segment(0xee, b""),
        segment(0xee, b"Adobe\0\x64\0\0\0\0\xff"),
        segment(0xe1, b"http://ns.adobe.com/xmp/extension/\0short"),
        segment(0xe1, b"Exif\0\0"),
        segment(0xe2, b"ICC_PROFILE\0\x01\x02?"),
        segment(0xed, b"Photoshop 3.0\0"),
        segment(0xe0, b"JFIF\0"),
        // Lengths that cannot be, stray bytes, fill bytes, markers that nobody knows or needs.
        vec![0xff, 0xfe, 0, 0],
        vec![0xff, 0xe5, 0, 1],
        vec![0xff, 0xff, 0xff, 0x01, 0, 0, 7],
        segment(0xdc, &[0, 128]),
        segment(0xcc, &[0, 0]),
        segment(0x02, b"?"),
    ] {
        let shown = more.escape_ascii();
        assert!(pixels(&jpeg_with(&more)) == plain, "{shown}");
        // Between scans they are passed over as well.
        let mut late = picture(160, 128, ImageFormat::Jpeg);
        let end = late.len() - 2;
        late.splice(end..end, more.iter().copied());
        assert!(pixels(&late) == plain, "at the end: {shown}");
    }
}

#[test]
fn the_first_camera_data_that_says_how_a_jpeg_lies_counts() {
    let exif = |turn| {
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([turn, 0, 0, 0, 0]);
        segment(0xe1, &exif)
    };
    let broken = segment(0xe1, b"Exif\0\0MM\0*?");
    let jpeg = jpeg_with(&[broken.clone(), exif(6), exif(3), broken].concat());
    let plain = pixels(&picture(160, 128, ImageFormat::Jpeg));
    assert!(pixels(&jpeg) == image::imageops::rotate90(&plain));
}

#[test]
fn a_profile_in_several_segments_is_joined_in_their_order() {
    let wide = moxcms::ColorProfile::new_display_p3().encode().unwrap();
    let (head, tail) = wide.split_at(200);
    let part = |at: u8, count: u8, bytes: &[u8]| {
        let numbers = [at, count];
        segment(0xe2, &[b"ICC_PROFILE\0", &numbers[..], bytes].concat())
    };
    let drawn = image::RgbImage::from_pixel(128, 128, image::Rgb([200, 100, 50]));
    let flat = encode(&DynamicImage::ImageRgb8(drawn), ImageFormat::Jpeg);
    let with = |more: Vec<u8>| {
        let mut jpeg = flat.clone();
        jpeg.splice(2..2, more);
        pixels(&jpeg).get_pixel(5, 5).0
    };
    let plain = with(Vec::new());
    let whole = with(part(1, 1, &wide));
    assert!(whole[0] > plain[0] + 5, "{whole:?} {plain:?}");
    assert_eq!(with([part(2, 2, tail), part(1, 2, head)].concat()), whole);
    for broken in [
        part(1, 2, &wide),
        [part(1, 2, head), part(1, 2, tail)].concat(),
        [part(0, 2, head), part(1, 2, tail)].concat(),
    ] {
        assert_eq!(with(broken), plain);
    }
}

/// By JFIF, by Adobe's transform, by the components' names: in that order, as libjpeg has it.
#[test]
fn colours_are_those_that_browsers_see() {
    let drawn = image::RgbImage::from_pixel(128, 128, image::Rgb([200, 100, 50]));
    let jfif = encode(&DynamicImage::ImageRgb8(drawn), ImageFormat::Jpeg);
    let bare = without(&jfif, 0xe0);
    let adobe = |transform| segment(0xee, &[b"Adobe\0\x64\0\0\0\0", &[transform][..]].concat());
    let named = |jpeg: &[u8], names: [u8; 3], more: Vec<u8>| {
        let mut jpeg = jpeg.to_vec();
        let (frame, scan) = (frame_of(&jpeg), position(&jpeg, 0xda) + 4);
        for (at, name) in names.into_iter().enumerate() {
            jpeg[frame + 6 + 3 * at] = name;
            jpeg[scan + 1 + 2 * at] = name;
        }
        jpeg.splice(2..2, more);
        pixels(&jpeg).get_pixel(5, 5).0
    };
    let is_rgb = |[red, green, blue]: [u8; 3]| {
        // As YCbCr the same numbers are another colour.
        assert!([red, green, blue] == named(&jfif, [1, 2, 3], Vec::new()) || blue > 150);
        blue > 150
    };
    for names in [[1, 2, 3], *b"RGB", [7, 9, 0], [0, 1, 2]] {
        assert!(!is_rgb(named(&jfif, names, Vec::new())), "{names:?}");
        assert!(!is_rgb(named(&jfif, names, adobe(0))), "{names:?}");
        assert!(!is_rgb(named(&bare, names, adobe(1))), "{names:?}");
        assert!(!is_rgb(named(&bare, names, adobe(2))), "{names:?}");
        assert!(is_rgb(named(&bare, names, adobe(0))), "{names:?}");
        assert_eq!(is_rgb(named(&bare, names, Vec::new())), names == *b"RGB");
        // Too short to say anything.
        let short = [segment(0xe0, b"JFIF\0\x01\x01"), segment(0xee, b"Adobe\0")].concat();
        assert_eq!(is_rgb(named(&bare, names, short)), names == *b"RGB");
    }
}

/// Our encoder writes the standard ones, which frames of Motion JPEG leave out.
#[test]
fn a_jpeg_without_huffman_tables_has_the_standard_ones() {
    let jpeg = picture(160, 128, ImageFormat::Jpeg);
    assert!(pixels(&without(&jpeg, 0xc4)) == pixels(&jpeg));
}

#[test]
fn a_scan_at_which_browsers_give_up_is_damage() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fuzz/corpus/images/base-progressive.jpeg"
    );
    let good = std::fs::read(corpus).unwrap();
    assert_eq!(size(&good), Ok((160, 128)));
    let scan = position(&good, 0xda) + 4;
    let changed = |at: usize, byte: u8| {
        let mut jpeg = good.clone();
        jpeg[at] = byte;
        examine(&jpeg).unwrap_err().to_string()
    };
    // A table that there is not, a component that there is not, bits that no coefficient has, the first and others at once.
    assert!(changed(scan + 2, 0x30).contains("cannot be decoded"));
    assert!(changed(scan + 1, 77).contains("no component"));
    assert!(changed(scan + 9, 0x0e).contains("cannot be decoded"));
    assert!(changed(scan + 8, 5).contains("cannot be decoded"));
    // More codes than there can be.
    assert!(changed(position(&good, 0xc4) + 5, 0xff).contains("Huffman"));
    // In a picture that comes in one pass these three mean nothing.
    let mut plain = picture(160, 128, ImageFormat::Jpeg);
    let wanted = pixels(&plain);
    let scan = position(&plain, 0xda) + 4;
    plain[scan + 7..scan + 10].copy_from_slice(&[9, 200, 0xff]);
    assert!(pixels(&plain) == wanted);
}
