//! A picture's file, rebuilt of what its pixels need. Decoders parse camera data, texts and thumbnails as well, and refuse
//! pictures for faults there that browsers pass over: they never see them. Of the rest only the orientation and the
//! colour profile are read. The Wan engine does the same in `container.py`.

use image::metadata::Orientation;

/// Begins the camera data of a JPEG, and of careless writers of other formats.
pub const EXIF: &[u8] = b"Exif\0\0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bare {
    /// A file that a decoder may see.
    pub bytes: Vec<u8>,
    pub orientation: Option<Orientation>,
    /// ICC, unchecked. None for a PNG, whose decoder unpacks the profile within its limits.
    pub profile: Option<Vec<u8>>,
}

/// How the picture lies. Camera data that cannot be read says nothing: viewers show the picture as it lies.
pub fn orientation(exif: &[u8]) -> Option<Orientation> {
    Orientation::from_exif_chunk(exif.strip_prefix(EXIF).unwrap_or(exif))
}
