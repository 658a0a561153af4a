//! What the numbers of a tensor are, whatever their format.

use half::{bf16, f16};
use safetensors::Dtype;

/// What was seen of a tensor so far.
pub(crate) struct Numbers {
    pub finite: bool,
    pub zero: bool,
}

impl Numbers {
    pub fn none_yet() -> Self {
        Self {
            finite: true,
            zero: true,
        }
    }

    /// Looks at more of them. False: this format's numbers are not known here. The chunk holds whole numbers.
    pub fn look(&mut self, dtype: Dtype, chunk: &[u8]) -> bool {
        match dtype {
            Dtype::F64 => self.each(chunk, f64::from_le_bytes),
            Dtype::F32 => self.each(chunk, |b| f32::from_le_bytes(b).into()),
            Dtype::F16 => self.each(chunk, |b| f16::from_le_bytes(b).into()),
            Dtype::BF16 => self.each(chunk, |b| bf16::from_le_bytes(b).into()),
            Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 => {
                self.zero &= chunk.iter().all(|byte| *byte == 0);
            }
            _ => return false,
        }
        true
    }

    fn each<const N: usize>(&mut self, chunk: &[u8], number: impl Fn([u8; N]) -> f64) {
        for bytes in chunk.as_chunks::<N>().0 {
            let number = number(*bytes);
            self.finite &= number.is_finite();
            self.zero &= number == 0.0;
        }
    }
}
