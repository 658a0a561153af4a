//! Pictures that are small to send and large to decode, and ones that decoders stumble over.

use super::*;

/// A PNG of these chunks, their checksums right.
fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, body) in chunks {
        bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        let named = [&name[..], body].concat();
        bytes.extend_from_slice(&named);
        bytes.extend(crc32(&named).to_be_bytes());
    }
    bytes
}

/// What deflate makes of bytes without packing them.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x78, 0x01];
    let blocks = bytes.chunks(65_535).collect::<Vec<_>>();
    for (at, block) in blocks.iter().enumerate() {
        let length = u16::try_from(block.len()).unwrap();
        packed.push(u8::from(at + 1 == blocks.len()));
        packed.extend(length.to_le_bytes());
        packed.extend((!length).to_le_bytes());
        packed.extend_from_slice(block);
    }
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    packed.extend((high << 16 | low).to_be_bytes());
    packed
}

fn palette_png(palette: Option<&[u8]>) -> Vec<u8> {
    let row: Vec<u8> = std::iter::once(0).chain(0..160).collect();
    let pixels = stored(&row.repeat(128));
    let mut header = [160_u32.to_be_bytes(), 128_u32.to_be_bytes()].concat();
    header.extend([8, 3, 0, 0, 0]);
    let mut chunks: Vec<(&[u8; 4], &[u8])> = vec![(b"IHDR", &header)];
    chunks.extend(palette.map(|palette| (b"PLTE", palette)));
    chunks.extend([(b"IDAT", &pixels[..]), (b"IEND", &[][..])]);
    png(&chunks)
}

/// The decoder panics at a palette that ends within a colour.
#[test]
fn a_palette_is_as_long_as_its_colours() {
    let short = pixels(&palette_png(Some(&[10, 20, 30])));
    assert_eq!(short.get_pixel(0, 0).0, [10, 20, 30]);
    assert_eq!(short.get_pixel(9, 0).0, [0, 0, 0]);
    assert_eq!(size(&palette_png(Some(&[7; 3 * 256]))), Ok((160, 128)));
    for bad in [&[1, 2, 3, 4][..], &[1], &[7; 3 * 257]] {
        let flaw = examine(&palette_png(Some(bad))).unwrap_err();
        assert_eq!(flaw, Flaw::Damaged("a PNG with a bad palette".into()));
    }
    assert_eq!(rule(&palette_png(None)), "decodes");
    // Beside other pixels it is a proposal, and no matter.
    assert_eq!(size(&png_with(b"PLTE", &[1, 2, 3, 4])), Ok((160, 128)));
}

#[test]
fn transparency_that_does_not_fit_the_pixels_is_none() {
    let plain = pixels(&picture(160, 128, ImageFormat::Png));
    for body in [&b""[..], &[0], &[0, 1, 0], &[0, 0, 0, 0, 0]] {
        assert!(pixels(&png_with(b"tRNS", body)) == plain, "{body:?}");
    }
}

/// Each part costs its bytes, and no more: the smallest there are, 2.4 MB of them.
#[test]
fn thousands_of_parts_beside_the_picture_are_passed_over() {
    let chunk = [0, 0, 0, 0, b't', b'E', b'X', b't', 0, 0, 0, 0];
    let mut png = picture(160, 128, ImageFormat::Png);
    let plain = pixels(&png);
    png.splice(33..33, chunk.repeat(200_000));
    assert!(pixels(&png) == plain);
    let mut jpeg = picture(160, 128, ImageFormat::Jpeg);
    let plain = pixels(&jpeg);
    jpeg.splice(2..2, [0xff, 0xfe, 0, 2].repeat(600_000));
    assert!(pixels(&jpeg) == plain);
    let mut webp = picture(160, 128, ImageFormat::WebP);
    let plain = pixels(&webp);
    webp.splice(12..12, b"ABCD\0\0\0\0".repeat(300_000));
    let length = u32::try_from(webp.len() - 8).unwrap();
    webp[4..8].copy_from_slice(&length.to_le_bytes());
    assert!(pixels(&webp) == plain);
}

#[test]
fn what_has_no_size_or_the_colours_of_print_is_refused() {
    let mut jpeg = picture(160, 128, ImageFormat::Jpeg);
    let frame = frame_of(&jpeg);
    jpeg[frame + 1..frame + 3].fill(0);
    assert_eq!(rule(&jpeg), "sides");
    let mut webp = b"RIFF\x1a\0\0\0WEBPVP8 \x0e\0\0\0\x10\0\0\x9d\x01\x2a".to_vec();
    webp.extend([0; 8]);
    assert_eq!(rule(&webp), "sides");
    assert_eq!(rule(&png_of(128, 0, 8)), "sides");
    // YCCK: four components, and Adobe's transform 2.
    let mut print = picture(160, 128, ImageFormat::Jpeg);
    let frame = frame_of(&print);
    print[frame + 5] = 4;
    let adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x02";
    print.splice(2..2, adobe.iter().copied());
    assert_eq!(rule(&print), "color");
}

/// Who sends large pictures and hangs up would have as many decoded at once as there are threads.
#[tokio::test]
async fn a_picture_whose_sender_has_gone_keeps_its_place_until_it_is_decoded() {
    let all = MEGAPIXELS_AT_ONCE as usize;
    let megapixels = Arc::new(Semaphore::new(all));
    let large = encode(&DynamicImage::new_rgb8(6_000, 6_000), ImageFormat::Png);
    let mut decoding = Box::pin(normalise(&megapixels, large.into(), "body"));
    while megapixels.available_permits() == all {
        assert!(futures::poll!(&mut decoding).is_pending());
        tokio::task::yield_now().await;
    }
    drop(decoding);
    assert_eq!(megapixels.available_permits(), all - 36);
    let every = megapixels.acquire_many(MEGAPIXELS_AT_ONCE).await;
    assert!(every.is_ok(), "it is given back in the end");
}
