//! Byte-level BPE (`gpt2`): merges in their order, within the parts that the pre-tokenizer leaves.

use tokenizers::{Tokenizer, models::bpe::BPE, pre_tokenizers::byte_level::ByteLevel};

use super::{
    Built, MERGES, merges,
    pre_tokenizer::{ALL, PreTokenizer},
    unbuilt,
    vocabulary::{TOKENS, Vocabulary},
};
use crate::{Result, gguf::Gguf};

const PRE: &str = "tokenizer.ggml.pre";

pub fn build(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Built> {
    let name = gguf.required(PRE, gguf.text(PRE)?)?;
    let pre = PreTokenizer::named(name).ok_or_else(|| {
        let known = ALL.iter().flat_map(PreTokenizer::names).collect::<Vec<_>>().join(", ");
        gguf.wrong(PRE, format!("`{name}` is not supported (hint: {known} are)"))
    })?;
    let merges = gguf.required(MERGES, merges(gguf)?)?;
    let wrong = unbuilt(gguf, TOKENS);
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.ids().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(pre.ignore_merges);
    let mut inner = Tokenizer::new(bpe.build().map_err(unbuilt(gguf, MERGES))?);
    let space_prefix = gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(false);
    inner
        .with_normalizer(pre.normalizer())
        .map_err(&wrong)?
        .with_pre_tokenizer(Some(pre.build(space_prefix).map_err(unbuilt(gguf, PRE))?))
        .with_decoder(Some(ByteLevel::default()));
    inner.add_tokens(vocabulary.added()).map_err(wrong)?;
    Ok(Built { inner, adds_bos: pre.adds_bos, special_ids: &[] })
}
