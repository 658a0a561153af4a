//! Words in the picture, so that a person sees at a glance which task a video belongs to, and that it is simulated.

use font8x8::legacy::BASIC_LEGACY;

use crate::picture::Frame;

const GLYPH: usize = 8;
const PROMPT_LINES: usize = 4;
const WHITE: u8 = 235;
const BLACK: u8 = 16;

/// Puts a caption above and the prompt below.
pub struct Overlay {
    scale: usize,
    prompt: Vec<Vec<char>>,
    seed: u64,
}

impl Overlay {
    pub fn new(prompt: &str, seed: u64, width: usize, height: usize) -> Self {
        // Legible at every size: 8 pixels in a thumbnail, 24 at 720p.
        let scale = (height.min(width) / 240).max(1);
        let columns = (width / (GLYPH * scale)).saturating_sub(1).max(1);
        Self {
            scale,
            prompt: wrap(prompt, columns, PROMPT_LINES),
            seed,
        }
    }

    pub fn draw(&self, frame: &mut Frame, index: u32, frames: u32) {
        let caption = format!("sim {}/{frames} seed {}", index + 1, self.seed);
        let caption: Vec<char> = caption.chars().collect();
        let line = (GLYPH + 2) * self.scale;
        self.line(frame, &caption, 0);
        let height = frame.height;
        for (i, text) in self.prompt.iter().enumerate() {
            let below = self.prompt.len() - i;
            self.line(frame, text, height.saturating_sub(below * line));
        }
    }

    /// One line on a darkened, greyed band.
    fn line(&self, frame: &mut Frame, text: &[char], top: usize) {
        let (width, scale) = (frame.width, self.scale);
        let bottom = (top + (GLYPH + 2) * scale).min(frame.height);
        for level in &mut frame.luma[top * width..bottom * width] {
            *level = BLACK + (*level).saturating_sub(BLACK) / 3;
        }
        for plane in &mut frame.chroma {
            for level in &mut plane[top / 2 * width / 2..bottom / 2 * width / 2] {
                *level = 128;
            }
        }
        for (column, character) in text.iter().enumerate() {
            let left = scale * (GLYPH * column + GLYPH / 2);
            self.glyph(frame, *character, left, top + scale);
        }
    }

    fn glyph(&self, frame: &mut Frame, character: char, left: usize, top: usize) {
        let rows = BASIC_LEGACY
            .get(character as usize)
            .unwrap_or(&BASIC_LEGACY['?' as usize]);
        for (row, bits) in rows.iter().enumerate() {
            for column in (0..GLYPH).filter(|column| bits & (1 << column) != 0) {
                for y in 0..self.scale {
                    let y = top + row * self.scale + y;
                    let x = left + column * self.scale;
                    if y < frame.height && x + self.scale <= frame.width {
                        frame.luma[y * frame.width + x..][..self.scale].fill(WHITE);
                    }
                }
            }
        }
    }
}

/// Breaks at spaces where it can; the last line says with `...` that there was more.
fn wrap(text: &str, columns: usize, most: usize) -> Vec<Vec<char>> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    for word in text.split_whitespace() {
        let word: Vec<char> = word.chars().collect();
        for (i, part) in word.chunks(columns).enumerate() {
            let fits = |line: &Vec<char>| i == 0 && line.len() + 1 + part.len() <= columns;
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.extend(part),
                Some(line) if fits(line) => {
                    line.push(' ');
                    line.extend(part);
                }
                _ => lines.push(part.to_vec()),
            }
        }
    }
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.truncate(columns.saturating_sub(3));
            last.extend("...".chars());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, columns: usize, most: usize) -> Vec<String> {
        let wrapped = wrap(text, columns, most);
        wrapped.iter().map(|line| line.iter().collect()).collect()
    }

    #[test]
    fn text_wraps_at_spaces_and_says_when_it_is_cut() {
        assert_eq!(lines("a red fox runs", 6, 4), ["a red", "fox", "runs"]);
        assert_eq!(lines("abcdefghij", 4, 4), ["abcd", "efgh", "ij"]);
        assert_eq!(lines("one two three", 5, 2), ["one", "tw..."]);
    }

    #[test]
    fn any_text_fits_any_frame() {
        for (width, height) in [(64, 64), (64, 400), (400, 64)] {
            let mut frame = Frame::black(width, height);
            let text = "語 \u{7f} long words everywhere ".repeat(30);
            Overlay::new(&text, u64::MAX, width, height).draw(&mut frame, 0, 1);
        }
    }
}
