//! What a JPEG's scans need, checked before they are decoded: at what libjpeg gives up, our decoder shows what it has.

use super::header::Flaw;

/// Of either class; in sequential pictures the first two of each are known without being sent.
const TABLES: usize = 4;
const KNOWN: usize = 2;
/// The highest bit that a scan may begin with.
const MAX_BIT: usize = 13;
/// The first coefficient of a block differs from the last block's by that many bits at most.
const MAX_DC_BITS: u8 = 15;
/// Before the codes of a Huffman table: class and number, and how many codes of each length there are.
const TABLE_HEAD: usize = 17;

/// Which Huffman tables there are, those of the first coefficients and those of the others.
pub struct Tables {
    sequential: bool,
    there: [[bool; TABLES]; 2],
}

impl Tables {
    pub fn new(sequential: bool) -> Self {
        let mut there = [[false; TABLES]; 2];
        if sequential {
            for class in &mut there {
                class[..KNOWN].fill(true);
            }
        }
        Self { sequential, there }
    }

    /// Of a DHT segment.
    pub fn add(&mut self, mut body: &[u8]) -> Result<(), Flaw> {
        let flaw = || Flaw::Damaged("a JPEG with a bad Huffman table".to_owned());
        while !body.is_empty() {
            let (head, rest) = body.split_at_checked(TABLE_HEAD).ok_or_else(flaw)?;
            let (class, number) = halves(head[0]);
            let there = self.there.get_mut(class).ok_or_else(flaw)?;
            *there.get_mut(number).ok_or_else(flaw)? = true;
            let (mut codes, mut count) = (0_usize, 0);
            for (bits, more) in (1..).zip(&head[1..]) {
                codes = codes * 2 + usize::from(*more);
                count += usize::from(*more);
                // No code is all ones.
                if codes >= 1 << bits {
                    return Err(flaw());
                }
            }
            let (values, rest) = rest.split_at_checked(count).ok_or_else(flaw)?;
            if count > 256 || (class == 0 && values.iter().any(|value| *value > MAX_DC_BITS)) {
                return Err(flaw());
            }
            body = rest;
        }
        Ok(())
    }

    /// Of a SOS segment.
    pub fn check(&self, body: &[u8]) -> Result<(), Flaw> {
        let flaw = || Flaw::Damaged("a JPEG scan that cannot be decoded".to_owned());
        let [count, rest @ .., first, last, bits] = body else {
            return Err(flaw());
        };
        let (components, first) = (rest.chunks(2).take(usize::from(*count)), *first);
        let (high, low) = halves(*bits);
        let sound = self.sequential
            || (first <= *last
                && *last < 64
                && (first > 0 || *last == 0)
                && (first == 0 || *count == 1)
                && (high == 0 || high == low + 1)
                && low <= MAX_BIT);
        let has = |class: usize, number: usize| {
            let class = self.there[class].get(number);
            class.copied().unwrap_or(false)
        };
        let coded = components
            .filter_map(|component| component.get(1))
            .all(|tables| {
                let (dc, ac) = halves(*tables);
                // The first coefficients' later bits are not coded.
                let needs_dc = self.sequential || (first == 0 && high == 0);
                let needs_ac = self.sequential || first > 0;
                (!needs_dc || has(0, dc)) && (!needs_ac || has(1, ac))
            });
        if sound && coded { Ok(()) } else { Err(flaw()) }
    }
}

/// The upper and the lower four bits.
fn halves(byte: u8) -> (usize, usize) {
    (usize::from(byte >> 4), usize::from(byte & 0xf))
}
