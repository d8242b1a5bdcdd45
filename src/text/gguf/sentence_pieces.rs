//! SentencePiece's BPE (`llama`): of all neighbours that make a piece, those with the highest score are merged first.
//!
//! As Hugging Face converts it: every way to make a piece of two becomes a merge, in the order of the pieces' scores.

use std::collections::HashSet;

use tokenizers::{
    Tokenizer,
    decoders::byte_fallback::ByteFallback,
    models::bpe::BPE,
    normalizers::{NormalizerWrapper, Prepend, Replace, Sequence},
};

use super::{
    Built, merges, unbuilt,
    vocabulary::{TOKENS, Vocabulary},
};
use crate::{Result, gguf::Gguf};

const SCORES: &str = "tokenizer.ggml.scores";
/// What stands for a space.
const SPACE: &str = "\u{2581}";
/// Tokens of phi3 that keep the space behind them.
const KEEP_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

pub fn build(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Built> {
    let merges = match merges(gguf)? {
        Some(merges) => merges,
        None => by_score(vocabulary, &scores(gguf, vocabulary)?),
    };
    let wrong = unbuilt(gguf, TOKENS);
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.ids().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    let bpe = match vocabulary.unknown() {
        Some(unknown) => bpe.unk_token(unknown.to_owned()),
        None => bpe,
    };
    let mut inner = Tokenizer::new(bpe.build().map_err(&wrong)?);
    let space_prefix = gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = NormalizerWrapper::Replace(Replace::new(" ", SPACE).map_err(&wrong)?);
    let prepend = space_prefix.then(|| NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())));
    inner
        .with_normalizer(Some(Sequence::new(prepend.into_iter().chain([replace]).collect())))
        .map_err(&wrong)?
        .with_decoder(Some(ByteFallback::default()));
    // Phi-3's files do not say that its special tokens take the space behind them.
    let strips = gguf.text("general.architecture")? == Some("phi3");
    let added = vocabulary.added().map(|token| {
        let strips = strips && token.special && !KEEP_SPACE.contains(&token.content.as_str());
        token.rstrip(strips)
    });
    inner.add_tokens(added).map_err(wrong)?;
    let special_ids = &[("unk_token", 0), ("bos_token", 1), ("eos_token", 2)];
    Ok(Built { inner, adds_bos: true, special_ids })
}

fn scores(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<f64>> {
    let scores = gguf.required(SCORES, gguf.numbers(SCORES)?)?;
    match scores.len() == vocabulary.tokens.len() {
        true => Ok(scores),
        false => {
            Err(gguf.wrong(SCORES, format!("expected {} entries, one a token", vocabulary.tokens.len())))
        }
    }
}

/// All pairs of pieces that make a piece: those of the highest score first, then of the lowest id, then with the longest left.
fn by_score(vocabulary: &Vocabulary, scores: &[f64]) -> Vec<(String, String)> {
    let pieces = || (0..vocabulary.tokens.len()).filter(|id| vocabulary.is_piece(*id));
    let known: HashSet<&str> = pieces().map(|id| vocabulary.tokens[id]).collect();
    let mut ranked: Vec<usize> = pieces().collect();
    ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let halves = ranked.into_iter().flat_map(|id| {
        let piece = vocabulary.tokens[id];
        piece.char_indices().rev().map(move |(middle, _)| piece.split_at(middle))
    });
    let both = halves.filter(|(left, right)| known.contains(left) && known.contains(right));
    both.map(|(left, right)| (left.to_owned(), right.to_owned())).collect()
}
