//! What `tokenizer.ggml.pre` stands for: how a text is cut before byte pairs are merged.
//!
//! The patterns are those of the models' own `tokenizer.json`. llama.cpp has its own forms of some of them.

use tokenizers::{
    normalizers::{NormalizerWrapper, unicode::NFC},
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    tokenizer::normalizer::SplitDelimiterBehavior,
};

/// GPT-2's words, numbers, signs and spaces.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
/// Of Llama 3 and OpenAI's cl100k.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Llama 3's, with digits apart.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words are cut where lower case ends.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Tekken's, with English endings and up to three digits.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// llama.cpp's own, for files of no known kind.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// How a text is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreTokenizer {
    /// Names that files use.
    names: &'static [&'static str],
    /// Each cuts what the ones before it left.
    patterns: &'static [&'static str],
    /// Whether composed and decomposed letters are the same.
    composed: bool,
    /// Whether a part that is a token is taken as it is, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether texts begin with BOS where the file does not say.
    pub adds_bos: bool,
}

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], patterns: &[], composed: false, ignore_merges: false, adds_bos: false };

pub const ALL: [PreTokenizer; 8] = [
    PreTokenizer { names: &["default"], patterns: &DEFAULT, ..PLAIN },
    PreTokenizer { names: &["gpt-2", "phi-2", "mpt", "olmo", "jais"], patterns: &[GPT2], ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell"],
        patterns: &[DIGIT, GPT2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["dbrx", "smaug-bpe"], patterns: &[LLAMA3], ..PLAIN },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "kormo"],
        patterns: &[QWEN2],
        composed: true,
        ..PLAIN
    },
    PreTokenizer { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, adds_bos: true, ..PLAIN },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2"], patterns: &[GPT4O], ..PLAIN },
];

impl PreTokenizer {
    pub fn named(name: &str) -> Option<&'static Self> {
        const KNOWN: &[PreTokenizer] = &ALL;
        KNOWN.iter().find(|known| known.names.contains(&name))
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().copied()
    }

    pub fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.composed.then_some(NormalizerWrapper::NFC(NFC))
    }

    /// Cuts at every pattern, and writes bytes as letters.
    pub fn build(&self, space_prefix: bool) -> tokenizers::Result<Sequence> {
        let cut = |pattern: &&str| {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::Split)
        };
        let mut steps = self.patterns.iter().map(cut).collect::<tokenizers::Result<Vec<_>>>()?;
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(space_prefix, true, false)));
        Ok(Sequence::new(steps))
    }
}
