//! A PNG without what its pixels do not need. Decoders parse texts as well and stumble over what is wrong with them.

/// Signature of every PNG.
const SIGNATURE: usize = 8;
/// Length, name and checksum of a chunk.
const FRAME: usize = 12;
/// The largest chunk beside the pixels that is kept. The largest known profile has two megabytes before it is compressed.
const MAX_BESIDE: usize = 4 << 20;

/// The chunks of the pixels, and of those that say how they are to be seen the ones that are not too long and whose checksum is
/// right. The header was read before, so every chunk is whole.
pub fn bare(bytes: &[u8]) -> Vec<u8> {
    let mut kept = bytes[..SIGNATURE].to_vec();
    let mut rest = &bytes[SIGNATURE..];
    while let Some((chunk, after)) = next(rest) {
        rest = after;
        let wanted = match &chunk[4..8] {
            b"IHDR" | b"PLTE" | b"IDAT" | b"IEND" => true,
            b"tRNS" | b"iCCP" | b"eXIf" => chunk.len() <= MAX_BESIDE && is_sound(chunk),
            _ => false,
        };
        if wanted {
            kept.extend_from_slice(chunk);
        }
        if &chunk[4..8] == b"IEND" {
            break;
        }
    }
    kept
}

fn next(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    rest.split_at_checked(usize::try_from(length).ok()?.checked_add(FRAME)?)
}

fn is_sound(chunk: &[u8]) -> bool {
    let (body, sum) = chunk.split_at(chunk.len() - 4);
    crc32(&body[4..]).to_be_bytes() == sum
}

/// Such chunks are short: a table would not pay.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
        })
    })
}
