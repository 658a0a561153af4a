//! Pictures that are none, that are bombs, that lie elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::{Case, case};

/// 128x128, a PNG in base64.
pub const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAIAAAACACAAAAADmVT4XAAAAb0lEQVR42u3bsQ0AIAgAQTBO6RAO48RsoIUFzX1NwiXU5IreRgAAAAAAAAAAAAAAAAAAADQ3XwP7d8NxAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIB76cEBAAAAAAAAAAAAAAAAAKAbUBwkArWJu+lXAAAAAElFTkSuQmCC";

pub fn cases() -> Vec<Case> {
    let mut cases = inline();
    cases.extend(encodings());
    cases.extend(keys());
    cases
}

/// A task with this image, as JSON text.
fn image(name: &str, value: &str, field: &'static str, rule: &'static str) -> Case {
    let payload = format!("{{\"model\":\"i2v-A14B\",\"prompt\":\"x\",\"image\":{value}}}");
    case(name, payload, field, rule)
}

fn bytes(name: &str, bytes: &[u8], rule: &'static str) -> Case {
    let value = json!({ "base64": STANDARD.encode(bytes) }).to_string();
    image(name, &value, "image.base64", rule)
}

/// The good picture's bytes.
pub fn good() -> Vec<u8> {
    STANDARD.decode(PICTURE).unwrap()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
        })
    })
}

/// The good picture with another header.
pub fn claiming(width: u32, height: u32, depth: u8) -> Vec<u8> {
    let mut png = good();
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    png[24] = depth;
    let sum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    png
}

/// The good picture with one more chunk.
pub fn with_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut png = good();
    let mut chunk = u32::try_from(data.len()).unwrap().to_be_bytes().to_vec();
    chunk.extend(name);
    chunk.extend(data);
    let sum = crc32(&chunk[4..]);
    chunk.extend(sum.to_be_bytes());
    png.splice(33..33, chunk);
    png
}

fn inline() -> Vec<Case> {
    let png = good();
    let cut = &png[..png.len() - 5];
    let mut flipped = png.clone();
    flipped[60] ^= 0xff;
    let webp = |chunks: &[u8]| {
        let length = u32::try_from(chunks.len() + 4).unwrap().to_le_bytes();
        [b"RIFF", &length[..], b"WEBP", chunks].concat()
    };
    vec![
        bytes(
            "4 giga pixels in 168 bytes",
            &claiming(65_535, 65_535, 8),
            "sides",
        ),
        bytes(
            "as many as 32 bits count",
            &claiming(u32::MAX, u32::MAX, 8),
            "sides",
        ),
        bytes("no pixel at all", &claiming(0, 0, 8), "sides"),
        bytes("one pixel", &claiming(1, 1, 8), "sides"),
        bytes("67 million", &claiming(8_192, 8_192, 8), "pixels"),
        bytes("a stripe", &claiming(8_192, 128, 8), "aspect"),
        bytes("more than there is", &claiming(6_000, 6_000, 8), "decodes"),
        bytes("16 bits", &claiming(128, 128, 16), "depth"),
        bytes(
            "it moves",
            &with_chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]),
            "still",
        ),
        bytes(
            "a header behind others",
            &[&png[..8], &png[33..], &png[8..33]].concat(),
            "decodes",
        ),
        bytes("it breaks off", cut, "whole"),
        bytes("a flipped byte", &flipped, "decodes"),
        bytes(
            "a chunk of four gigabytes",
            &[&png[..33], b"\xff\xff\xff\xffIDAT"].concat(),
            "whole",
        ),
        bytes("only magic: PNG", &png[..8], "whole"),
        bytes("only magic: JPEG", b"\xff\xd8\xff", "whole"),
        bytes("only magic: WebP", b"RIFF\x04\0\0\0WEBP", "decodes"),
        bytes("a JPEG that ends at once", b"\xff\xd8\xff\xd9", "decodes"),
        bytes(
            "a JPEG of colours for print",
            b"\xff\xd8\xff\xc0\0\x08\x08\x10\0\x10\0\x04",
            "color",
        ),
        bytes(
            "a JPEG of 12 bits",
            b"\xff\xd8\xff\xc0\0\x08\x0c\x10\0\x10\0\x03",
            "depth",
        ),
        bytes(
            "a JPEG without loss",
            b"\xff\xd8\xff\xc3\0\x08\x08\x10\0\x10\0\x03",
            "format",
        ),
        bytes(
            "a segment without length",
            b"\xff\xd8\xff\xe1\0\0\xff\xd9",
            "decodes",
        ),
        bytes(
            "a film as WebP",
            &webp(b"VP8X\x0a\0\0\0\x02\0\0\0\x9f\0\0\x9f\0\0"),
            "still",
        ),
        bytes(
            "a canvas without a picture",
            &webp(b"VP8X\x0a\0\0\0\0\0\0\0\x9f\0\0\x9f\0\0"),
            "decodes",
        ),
        bytes(
            "16,384 pixels on a canvas of 160",
            &webp(b"VP8X\x0a\0\0\0\0\0\0\0\x9f\0\0\x9f\0\0VP8L\x06\0\0\0\x2f\xff\xff\xff\x0f\0"),
            "decodes",
        ),
        bytes("no byte", b"", "format"),
        bytes("3.6 giga pixels", &claiming(60_000, 60_000, 8), "sides"),
        bytes("GIF", b"GIF89a\x80\0\x80\0\0\0\0;", "format"),
        bytes("TIFF", b"II*\0\x08\0\0\0", "format"),
        bytes("AVIF", b"\0\0\0\x20ftypavif\0\0\0\0", "format"),
        bytes(
            "SVG with an entity",
            b"<!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>",
            "format",
        ),
        bytes("PostScript", b"%!PS\n(%pipe%id) (r) file", "format"),
        bytes(
            "ImageMagick's own",
            b"push graphic-context\nfill 'url(https://x/|id)'",
            "format",
        ),
        bytes("a program", b"\x7fELF\x02\x01\x01\0", "format"),
        bytes("another container", b"RIFF\x24\0\0\0WAVEfmt ", "format"),
    ]
}

fn encodings() -> Vec<Case> {
    let text = |name: &str, text: &str| {
        image(
            name,
            &json!({ "base64": text }).to_string(),
            "image.base64",
            "base64",
        )
    };
    let unpadded = PICTURE.trim_end_matches('=');
    vec![
        text(
            "base64 for links",
            &URL_SAFE_NO_PAD.encode(b"\xff\xd8\xff\xfb\xef\xbe"),
        ),
        text("a data link", &format!("data:image/png;base64,{PICTURE}")),
        text(
            "broken into lines",
            &format!("{}\n{}", &PICTURE[..76], &PICTURE[76..]),
        ),
        text("padding in the middle", &format!("AA=={PICTURE}")),
        text("one character too few", &unpadded[..unpadded.len() - 1]),
        text("one character too many", &format!("{PICTURE}A")),
        text("bits behind the end", "iVBORx=="),
        text("a NUL", "iVBO\0g=="),
        text("per cent signs", "%%%"),
        image(
            "a list of bytes",
            "{\"base64\":[137,80,78,71]}",
            "image.base64",
            "type",
        ),
        image("a number", "{\"base64\":7}", "image.base64", "type"),
        image("nothing", "{\"base64\":null}", "image.base64", "type"),
        image(
            "two ways at once",
            "{\"base64\":\"\",\"s3_key\":\"images/a\"}",
            "image",
            "type",
        ),
        image(
            "a link",
            "{\"url\":\"http://169.254.169.254/latest/meta-data\"}",
            "image",
            "known",
        ),
        image("a text", "\"images/a.png\"", "image", "known"),
        image("a file", "{\"path\":\"/etc/passwd\"}", "image", "known"),
    ]
}

fn keys() -> Vec<Case> {
    let key = |key: &str, rule| {
        let value = json!({ "s3_key": key }).to_string();
        image(
            &format!("s3_key {:.60}", key.escape_debug().to_string()),
            &value,
            "image.s3_key",
            rule,
        )
    };
    let mut cases = Vec::new();
    for refused in [
        "",
        "images",
        "images/",
        "/images/a",
        "Images/a",
        "images//a",
        "images/./a",
        "images/..",
        "images/a/..",
        "images/a/../../renders/a.mp4",
        "renders/a.mp4",
        "secrets/a",
        "checkpoints/a",
        "images\\..\\a",
        "images/a\0.png",
        "images/a\r\nx-amz-acl: public-read",
        "images/a\u{1b}[2J",
        "s3://other/images/a",
        "file:///etc/passwd",
        "http://169.254.169.254/images/a",
        "\u{feff}images/a",
        "images\u{2215}a",
    ] {
        cases.push(key(refused, "key"));
    }
    cases.push(key(&format!("images/{}", "x".repeat(506)), "key"));
    cases.push(key(&format!("images/{}", "é".repeat(300)), "key"));
    cases
}
