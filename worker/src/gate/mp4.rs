//! Just enough of ISO 14496-12 and -15 to find the frames of one H.264 track.
//!
//! Own code, because the file comes from a process that may be broken: parsers at hand index into tables without
//! looking, or reserve as much memory as a broken count asks for. Here every read is checked and every count bounded.

use super::error::GateError;

/// Ten minutes at 60 frames a second; a bound on memory.
const MAX_SAMPLES: usize = 36_000;

/// Where the frames are.
pub struct Index<'a> {
    pub width: u32,
    pub height: u32,
    pub timescale: u32,
    /// One for each sample, in `timescale`.
    pub durations: Vec<u32>,
    /// Length-prefixed NAL units in decoding order.
    pub samples: Vec<&'a [u8]>,
    /// Bytes of each length prefix.
    pub prefix: usize,
    /// Sequence and picture parameter sets.
    pub parameters: Vec<&'a [u8]>,
}

const CUT: GateError = GateError::Mp4("a box is cut short");

/// Bytes that are taken from the front, or refused.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], GateError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(CUT)?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, GateError> {
        let digits = self.take(bytes)?;
        Ok(digits.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn u32(&mut self) -> Result<u32, GateError> {
        Ok(u32::try_from(self.number(4)?).unwrap_or(u32::MAX))
    }

    fn count(&mut self) -> Result<usize, GateError> {
        let count = self.u32()? as usize;
        if count > MAX_SAMPLES {
            return Err(GateError::Mp4("a table has too many entries"));
        }
        Ok(count)
    }

    /// The next box: its type and what is in it.
    fn next_box(&mut self) -> Result<Option<([u8; 4], Cursor<'a>)>, GateError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let size = self.number(4)?;
        let mut kind = [0; 4];
        kind.copy_from_slice(self.take(4)?);
        let body = match size {
            0 => self.0.len() as u64,
            1 => self.number(8)?.checked_sub(16).ok_or(CUT)?,
            _ => size.checked_sub(8).ok_or(CUT)?,
        };
        let body = self.take(usize::try_from(body).map_err(|_| CUT)?)?;
        Ok(Some((kind, Cursor(body))))
    }

    /// The first box of a type among those that follow.
    fn find(mut self, wanted: &[u8; 4]) -> Result<Option<Cursor<'a>>, GateError> {
        while let Some((kind, body)) = self.next_box()? {
            if kind == *wanted {
                return Ok(Some(body));
            }
        }
        Ok(None)
    }

    fn within(self, path: &[&[u8; 4]]) -> Result<Option<Cursor<'a>>, GateError> {
        let mut here = self;
        for kind in path {
            match here.find(kind)? {
                Some(body) => here = body,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// A full box's content, behind version and flags.
    fn table(self, kind: &[u8; 4], missing: &'static str) -> Result<Cursor<'a>, GateError> {
        let mut body = self.find(kind)?.ok_or(GateError::Mp4(missing))?;
        body.take(4)?;
        Ok(body)
    }
}

/// Finds the one video track.
pub fn read(file: &[u8]) -> Result<Index<'_>, GateError> {
    let movie = movie(file)?;
    let mut boxes = movie;
    let mut found = None;
    while let Some((kind, track)) = boxes.next_box()? {
        if kind != *b"trak" {
            continue;
        }
        let handler = track.within(&[b"mdia", b"hdlr"])?;
        let is_video = handler.is_some_and(|h| h.0.get(8..12) == Some(b"vide"));
        if is_video && found.replace(track).is_some() {
            return Err(GateError::Mp4("there is more than one video track"));
        }
    }
    let track = found.ok_or(GateError::Mp4("there is no video track"))?;
    let media = track.within(&[b"mdia"])?;
    let media = media.ok_or(GateError::Mp4("the track has no media"))?;
    let tables = media.within(&[b"minf", b"stbl"])?;
    let tables = tables.ok_or(GateError::Mp4("the track has no sample tables"))?;
    let mut index = description(tables)?;
    index.timescale = timescale(media)?;
    index.samples = samples(file, tables)?;
    index.durations = durations(tables)?;
    if index.durations.len() != index.samples.len() {
        return Err(GateError::Mp4(
            "the tables disagree on the number of frames",
        ));
    }
    Ok(index)
}

/// The index; it must come before the data. The data may not be cut.
fn movie(file: &[u8]) -> Result<Cursor<'_>, GateError> {
    let mut boxes = Cursor(file);
    let (mut movie, mut data_first, mut typed) = (None, false, false);
    while let Some((kind, body)) = boxes.next_box()? {
        match &kind {
            b"ftyp" => typed = true,
            b"moov" => movie = Some(body),
            b"mdat" if movie.is_none() => data_first = true,
            b"moof" => return Err(GateError::Mp4("it is fragmented")),
            _ => {}
        }
    }
    if !typed {
        return Err(GateError::Mp4("it does not say what it is"));
    }
    let movie = movie.ok_or(GateError::Mp4("there is no index"))?;
    if data_first {
        return Err(GateError::NotFaststart);
    }
    Ok(movie)
}

fn description(tables: Cursor<'_>) -> Result<Index<'_>, GateError> {
    let mut entries = tables.table(b"stsd", "the track has no description")?;
    entries.take(4)?;
    let (kind, mut entry) = entries.next_box()?.ok_or(CUT)?;
    if !matches!(&kind, b"avc1" | b"avc3") {
        return Err(GateError::Codec(kind.escape_ascii().to_string()));
    }
    // Reserved, data reference, predefined.
    entry.take(24)?;
    let width = u32::from(u16::try_from(entry.number(2)?).unwrap_or(0));
    let height = u32::from(u16::try_from(entry.number(2)?).unwrap_or(0));
    // Resolutions, frame count, compressor's name, depth.
    entry.take(50)?;
    let missing = GateError::Mp4("the track has no decoder configuration");
    let mut config = entry.find(b"avcC")?.ok_or(missing)?;
    // Version, profile, compatibility, level.
    config.take(4)?;
    let prefix = (config.take(1)?[0] & 0b11) as usize + 1;
    let mut parameters = Vec::new();
    for mask in [0b1_1111, 0xff] {
        for _ in 0..config.take(1)?[0] & mask {
            let length = config.number(2)?;
            parameters.push(config.take(usize::try_from(length).map_err(|_| CUT)?)?);
        }
    }
    Ok(Index {
        width,
        height,
        timescale: 0,
        durations: Vec::new(),
        samples: Vec::new(),
        prefix,
        parameters,
    })
}

fn timescale(media: Cursor<'_>) -> Result<u32, GateError> {
    let missing = GateError::Mp4("the track has no timescale");
    let mut header = media.find(b"mdhd")?.ok_or(missing)?;
    let version = header.take(4)?[0];
    // Times of creation and modification.
    header.take(if version == 1 { 16 } else { 8 })?;
    header.u32()
}

fn durations(tables: Cursor<'_>) -> Result<Vec<u32>, GateError> {
    let mut table = tables.table(b"stts", "the track has no times")?;
    let mut durations = Vec::new();
    for _ in 0..table.count()? {
        let (count, duration) = (table.count()?, table.u32()?);
        if durations.len() + count > MAX_SAMPLES {
            return Err(GateError::Mp4("the track has too many times"));
        }
        durations.extend(std::iter::repeat_n(duration, count));
    }
    Ok(durations)
}

fn samples<'a>(file: &'a [u8], tables: Cursor<'a>) -> Result<Vec<&'a [u8]>, GateError> {
    let sizes = sizes(tables)?;
    let chunks = chunks(tables)?;
    let runs = runs(tables)?;
    let mut sizes = sizes.into_iter();
    let mut samples = Vec::with_capacity(sizes.len());
    for (number, offset) in (1..).zip(chunks) {
        let run = runs.iter().rev().find(|(first, _)| *first <= number);
        let (_, each) = run.ok_or(GateError::Mp4("a chunk has no description"))?;
        let mut at = offset;
        for size in sizes.by_ref().take(*each) {
            let end = at.checked_add(size).ok_or(CUT)?;
            let sample = file.get(at..end);
            samples.push(sample.ok_or(GateError::Mp4("a frame lies outside of the file"))?);
            at = end;
        }
    }
    if sizes.next().is_some() {
        return Err(GateError::Mp4("some frames lie in no chunk"));
    }
    Ok(samples)
}

fn sizes(tables: Cursor<'_>) -> Result<Vec<usize>, GateError> {
    let mut table = tables.table(b"stsz", "the track has no sizes")?;
    let (same, count) = (table.u32()?, table.count()?);
    if same != 0 {
        return Ok(vec![same as usize; count]);
    }
    (0..count).map(|_| Ok(table.u32()? as usize)).collect()
}

fn chunks(tables: Cursor<'_>) -> Result<Vec<usize>, GateError> {
    let (mut table, width) = match tables.table(b"stco", "the track has no chunks") {
        Ok(table) => (table, 4),
        Err(_) => (tables.table(b"co64", "the track has no chunks")?, 8),
    };
    (0..table.count()?)
        .map(|_| usize::try_from(table.number(width)?).map_err(|_| CUT))
        .collect()
}

/// First chunk, samples in each from there on.
fn runs(tables: Cursor<'_>) -> Result<Vec<(u32, usize)>, GateError> {
    let mut table = tables.table(b"stsc", "the track has no chunk descriptions")?;
    (0..table.count()?)
        .map(|_| {
            let run = (table.u32()?, table.u32()? as usize);
            table.take(4)?;
            Ok(run)
        })
        .collect()
}
