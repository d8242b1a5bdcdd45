//! How a number is written: as one, or as its bytes in base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a pooled output is written as. The binary bodies of `bytes` and `bytes_only` are not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = VllmEncodingFormat)]
pub enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

/// The type whose bytes are written; the two of 8 bits are not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = VllmEmbedDtype)]
pub enum EmbedDtype {
    #[default]
    Float32,
    Float16,
    Bfloat16,
}

/// The order of the bytes; `native` is this machine's, which is `little` nearly everywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = VllmEndianness)]
pub enum Endianness {
    #[default]
    Native,
    Little,
    Big,
}

/// All three, of which the last two are for base64 alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encoding {
    pub format: EncodingFormat,
    pub dtype: EmbedDtype,
    pub endianness: Endianness,
}

/// The output of one input: one list, of the one score, or its bytes in base64.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = VllmPooledData)]
pub enum PooledData {
    Numbers([[f64; 1]; 1]),
    Base64(String),
}

impl Encoding {
    /// Writes a score.
    pub fn write(self, score: f64) -> PooledData {
        match self.format {
            EncodingFormat::Float => PooledData::Numbers([[score]]),
            EncodingFormat::Base64 => PooledData::Base64(STANDARD.encode(self.bytes(score))),
        }
    }

    fn bytes(self, score: f64) -> Vec<u8> {
        let mut bytes = match self.dtype {
            EmbedDtype::Float32 => (score as f32).to_le_bytes().to_vec(),
            EmbedDtype::Float16 => f16::from_f64(score).to_le_bytes().to_vec(),
            EmbedDtype::Bfloat16 => bf16::from_f64(score).to_le_bytes().to_vec(),
        };
        let big = match self.endianness {
            Endianness::Native => cfg!(target_endian = "big"),
            Endianness::Little => false,
            Endianness::Big => true,
        };
        if big {
            bytes.reverse();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_of_the_type_and_in_the_order_that_are_asked_for() {
        // 1.5: 0x3fc00000, 0x3e00 and 0x3fc0.
        let table: [(_, _, &[u8]); 5] = [
            (EmbedDtype::Float32, Endianness::Little, &[0x00, 0x00, 0xc0, 0x3f]),
            (EmbedDtype::Float32, Endianness::Big, &[0x3f, 0xc0, 0x00, 0x00]),
            (EmbedDtype::Float16, Endianness::Little, &[0x00, 0x3e]),
            (EmbedDtype::Bfloat16, Endianness::Big, &[0x3f, 0xc0]),
            (EmbedDtype::Float32, Endianness::Native, &1.5f32.to_ne_bytes()),
        ];
        for (dtype, endianness, want) in table {
            let encoding = Encoding { format: EncodingFormat::Base64, dtype, endianness };
            assert_eq!(encoding.bytes(1.5), want, "{encoding:?}");
        }
    }
}
