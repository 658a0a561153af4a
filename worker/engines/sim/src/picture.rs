//! The clean picture as latents, and latents as frames.

use sha2::{Digest, Sha256};

use crate::recipe::{CELL, FRAMES_PER_LATENT, Shape};

/// Small, fast, and the same everywhere.
pub struct SplitMix(u64);

impl SplitMix {
    /// A stream of its own for each purpose.
    pub fn new(key: &[u8; 32], purpose: &[u8]) -> Self {
        let hash = Sha256::new_with_prefix(key)
            .chain_update(purpose)
            .finalize();
        let mut seed = [0; 8];
        seed.copy_from_slice(&hash[..8]);
        Self(u64::from_le_bytes(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f32 {
        // 24 bits are exact in an f32.
        (self.next() >> 40) as f32 / 16_777_216.0
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Nearly normal, mean 0 and variance 1: the sum of four uniform numbers, scaled.
    pub fn bell(&mut self) -> f32 {
        let sum = self.unit() + self.unit() + self.unit() + self.unit();
        (sum - 2.0) * 1.732
    }
}

/// A triangle wave of period 1 from -1 to 1: a sine that needs no libm.
fn triangle(phase: f32) -> f32 {
    // From 1000 whole periods up, so that the fraction of a negative phase is right too.
    let fraction = (phase + 1000.0) % 1.0;
    (fraction * 4.0 - 2.0).abs() - 1.0
}

/// A plane wave that moves.
struct Wave {
    across: f32,
    down: f32,
    speed: f32,
    phase: f32,
}

/// A soft spot that wanders and has a colour.
struct Spot {
    path: [Wave; 2],
    size: f32,
    colour: [f32; 3],
}

impl Wave {
    fn random(random: &mut SplitMix, frequency: f32) -> Self {
        Self {
            across: random.between(-frequency, frequency),
            down: random.between(-frequency, frequency),
            speed: random.between(0.03, 0.09),
            phase: random.unit(),
        }
    }

    fn at(&self, x: f32, y: f32, time: f32) -> f32 {
        triangle(self.across * x + self.down * y + self.speed * time + self.phase)
    }
}

/// Latents of the clean picture: channel, time, row, column; values from -1 to 1.
pub fn target(key: &[u8; 32], shape: Shape) -> Vec<f32> {
    let mut random = SplitMix::new(key, b"picture");
    let waves: Vec<[Wave; 3]> = (0..Shape::CHANNELS)
        .map(|_| [0.7, 1.2, 1.9].map(|frequency| Wave::random(&mut random, frequency)))
        .collect();
    let spots: Vec<Spot> = (0..4).map(|_| random_spot(&mut random)).collect();
    let mut values = vec![0.0; shape.volume()];
    let volume = shape.times * shape.plane();
    // In units of the height, so that a picture keeps its looks at every size.
    let unit = 1.0 / shape.rows as f32;
    let middle = shape.columns as f32 * unit * 0.5;
    for t in 0..shape.times {
        let time = t as f32;
        let centres: Vec<(f32, f32)> = spots.iter().map(|s| s.centre(time, middle)).collect();
        for row in 0..shape.rows {
            for column in 0..shape.columns {
                let (x, y) = (column as f32 * unit, row as f32 * unit);
                let at = t * shape.plane() + row * shape.columns + column;
                let mut pixel = [0.0; Shape::CHANNELS];
                for (value, [a, b, c]) in pixel.iter_mut().zip(&waves) {
                    *value =
                        0.3 * a.at(x, y, time) + 0.2 * b.at(x, y, time) + 0.1 * c.at(x, y, time);
                }
                for (spot, (cx, cy)) in spots.iter().zip(&centres) {
                    let distance = (x - cx) * (x - cx) + (y - cy) * (y - cy);
                    let near = (spot.size - distance).max(0.0) / spot.size;
                    for (value, colour) in pixel.iter_mut().zip(spot.colour) {
                        *value += near * (colour - *value);
                    }
                }
                for (channel, value) in pixel.into_iter().enumerate() {
                    values[channel * volume + at] = value;
                }
            }
        }
    }
    values
}

fn random_spot(random: &mut SplitMix) -> Spot {
    Spot {
        path: [0.0, 0.0].map(|frequency| Wave::random(random, frequency)),
        size: random.between(0.03, 0.12),
        colour: [
            random.between(-0.2, 0.9),
            random.between(-0.9, 0.9),
            random.between(-0.9, 0.9),
        ],
    }
}

impl Spot {
    fn centre(&self, time: f32, middle: f32) -> (f32, f32) {
        let [x, y] = &self.path;
        (
            middle + middle * x.at(0.0, 0.0, time),
            0.5 + 0.5 * y.at(0.0, 0.0, time),
        )
    }
}

/// One frame, 4:2:0, BT.709, studio range.
pub struct Frame {
    pub width: usize,
    pub height: usize,
    pub luma: Vec<u8>,
    pub chroma: [Vec<u8>; 2],
}

impl Frame {
    pub fn black(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            luma: vec![16; width * height],
            chroma: [(); 2].map(|()| vec![128; width * height / 4]),
        }
    }
}

/// What the real engine's VAE does: latents to pixels, a frame at a time, so that memory stays small.
pub fn decode(latents: &[f32], shape: Shape, index: usize) -> Frame {
    let cell = CELL as usize;
    let (width, height) = (shape.columns * cell, shape.rows * cell);
    let plane = |channel: usize, base: f32, swing: f32| -> Vec<i32> {
        let (now, next, weight) = neighbours(index, shape.times);
        let start = |t: usize| (channel * shape.times + t) * shape.plane();
        let now = &latents[start(now)..][..shape.plane()];
        let next = &latents[start(next)..][..shape.plane()];
        let blended = now.iter().zip(next).map(|(a, b)| a + (b - a) * weight);
        blended.map(|value| fixed(value, base, swing)).collect()
    };
    Frame {
        width,
        height,
        luma: enlarge(&plane(0, 125.5, 109.5), shape, cell),
        chroma: [1, 2].map(|c| enlarge(&plane(c, 128.0, 112.0), shape, cell / 2)),
    }
}

/// The latents around a frame, and how far it is on the way to the later one.
fn neighbours(index: usize, times: usize) -> (usize, usize, f32) {
    let each = FRAMES_PER_LATENT as usize;
    let now = index / each;
    let weight = (index % each) as f32 / each as f32;
    (now, (now + 1).min(times - 1), weight)
}

/// A level with 8 binary digits behind the point.
#[expect(
    clippy::cast_possible_truncation,
    reason = "clamped, and what is behind the point may go"
)]
fn fixed(value: f32, base: f32, swing: f32) -> i32 {
    ((base + swing * value.clamp(-1.0, 1.0)) * 256.0) as i32
}

/// Bilinear, by a factor of 8 or 4, on cell centres.
fn enlarge(plane: &[i32], shape: Shape, factor: usize) -> Vec<u8> {
    let (columns, rows) = (shape.columns, shape.rows);
    let mut out = vec![0; columns * rows * factor * factor];
    let mut row = vec![0; columns];
    for (y, line) in out.chunks_exact_mut(columns * factor).enumerate() {
        let (above, below, weight) = between(y, factor, rows);
        let above = &plane[above * columns..][..columns];
        let below = &plane[below * columns..][..columns];
        for (value, (a, b)) in row.iter_mut().zip(above.iter().zip(below)) {
            *value = *a * (16 - weight) + *b * weight;
        }
        for (x, cell) in line.chunks_exact_mut(factor).enumerate() {
            let (left, here, right) = (
                row[x.saturating_sub(1)],
                row[x],
                row[(x + 1).min(columns - 1)],
            );
            for (i, pixel) in cell.iter_mut().enumerate() {
                let offset = offset(i, factor);
                let side = if offset < 0 { left } else { right };
                let level = here * (16 - offset.abs()) + side * offset.abs();
                *pixel = u8::try_from(level >> 16).unwrap_or(u8::MAX);
            }
        }
    }
    out
}

/// Sixteenths from the centre of its cell to a pixel.
fn offset(pixel: usize, factor: usize) -> i32 {
    let sixteenths = (2 * pixel + 1) * 8 / factor;
    i32::try_from(sixteenths).map_or(0, |s| s - 8)
}

/// The two rows around a pixel's row and the weight of the second, in sixteenths.
fn between(y: usize, factor: usize, rows: usize) -> (usize, usize, i32) {
    let row = y / factor;
    match offset(y % factor, factor) {
        o if o < 0 => (row.saturating_sub(1), row, 16 + o),
        o => (row, (row + 1).min(rows - 1), o),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        times: 3,
        rows: 8,
        columns: 12,
    };

    #[test]
    fn the_wave_stays_in_range_and_repeats() {
        assert_eq!(triangle(0.25), triangle(-0.75));
        assert!((0..100).all(|i| triangle(i as f32 * 0.37 - 9.0).abs() <= 1.0));
    }

    #[test]
    fn an_even_plane_stays_even() {
        let latents = vec![0.0; SHAPE.volume()];
        let frame = decode(&latents, SHAPE, 5);
        assert!(frame.luma.iter().all(|level| *level == 125));
        assert!(frame.chroma.iter().flatten().all(|level| *level == 128));
        assert_eq!(frame.luma.len(), 96 * 64);
    }

    #[test]
    fn another_key_is_another_picture() {
        assert_ne!(target(&[1; 32], SHAPE), target(&[2; 32], SHAPE));
        assert!(target(&[1; 32], SHAPE).iter().all(|v| v.abs() <= 1.0));
    }
}
