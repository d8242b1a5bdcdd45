//! The tokenizer and the chat template inside a GGUF file's metadata.
//!
//! A GGUF names its pre-tokenizer by a word, and every word stands for its own regular expressions. Known
//! is `smollm`: each digit by itself, then GPT-2's byte-level pattern. Others are refused by name, since a
//! near miss would tokenise most texts right and some wrong, without a word.

use std::{collections::BTreeMap, path::Path};

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::{
    AddedToken,
    models::bpe::BPE,
    pre_tokenizers::{PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use super::{
    template::Template,
    tokenizer::{Ends, SpecialTokens, Tokenizer},
};
use crate::{Error, Result};

/// `tokenizer.ggml.token_type` of tokens that are matched whole, before the text is split.
const CONTROL: i64 = 3;

/// Metadata keys of the special tokens, with the names that templates use.
const SPECIAL_IDS: [(&str, &str); 4] = [
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    (PAD_ID, "pad_token"),
];
const PAD_ID: &str = "tokenizer.ggml.padding_token_id";

/// Metadata with the file that it came from, for messages.
struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
}

/// A tokenizer with what else the metadata says about text.
pub struct Text {
    /// Byte-level BPE.
    pub tokenizer: Tokenizer,
    /// The chat template, if the file has one.
    pub template: Option<Template>,
    /// The padding token, if the file names one.
    pub pad_token_id: Option<u32>,
}

/// Builds the tokenizer and, where there is one, the chat template.
pub fn read(path: &Path, content: &Content) -> Result<Text> {
    let metadata = Metadata { path, content };
    metadata.expect("tokenizer.ggml.model", "gpt2")?;
    metadata.expect("tokenizer.ggml.pre", "smollm")?;
    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    let named = metadata.special_tokens(&tokens)?;
    let ends = Ends {
        bos: metadata.flag("tokenizer.ggml.add_bos_token")?,
        eos: metadata.flag("tokenizer.ggml.add_eos_token")?,
    };
    let template = match metadata.get("tokenizer.chat_template") {
        Some(Value::String(source)) => Some(Template::compile(path, source, named.clone())?),
        Some(_) => return Err(metadata.wrong("tokenizer.chat_template", "a string")),
        None => None,
    };
    let inner = metadata.byte_pairs(&tokens)?;
    let special = SpecialTokens { named, surround: Some(ends) };
    let pad_token_id = metadata.id(PAD_ID)?;
    Ok(Text { tokenizer: Tokenizer::new(path, inner, special)?, template, pad_token_id })
}

impl<'a> Metadata<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(key)
    }

    fn wrong(&self, key: &str, want: &str) -> Error {
        Error::file(self.path, format!("{key}: expected {want}"))
    }

    fn required(&self, key: &str) -> Result<&'a Value> {
        self.get(key).ok_or_else(|| Error::file(self.path, format!("{key}: missing")))
    }

    /// Refuses every value but the one that is supported.
    fn expect(&self, key: &str, known: &str) -> Result<()> {
        match self.required(key)? {
            Value::String(value) if value == known => Ok(()),
            Value::String(value) => {
                Err(Error::file(self.path, format!("{key}: `{value}` is not supported, only `{known}` is")))
            }
            _ => Err(self.wrong(key, "a string")),
        }
    }

    fn array(&self, key: &str) -> Result<&'a [Value]> {
        match self.required(key)? {
            Value::Array(values) => Ok(values),
            _ => Err(self.wrong(key, "an array")),
        }
    }

    fn strings(&self, key: &str) -> Result<Vec<&'a str>> {
        let texts = self.array(key)?.iter().map(|value| match value {
            Value::String(text) => Ok(text.as_str()),
            _ => Err(self.wrong(key, "an array of strings")),
        });
        texts.collect()
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "a boolean")),
        }
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let id = integer(value).and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| self.wrong(key, "a token id"))
    }

    fn special_tokens(&self, tokens: &[&str]) -> Result<BTreeMap<String, String>> {
        let mut named = BTreeMap::new();
        for (key, name) in SPECIAL_IDS {
            let Some(id) = self.id(key)? else { continue };
            let token = tokens.get(id as usize).ok_or_else(|| {
                Error::file(self.path, format!("{key}: {id} is past the {} tokens", tokens.len()))
            })?;
            named.insert(name.to_owned(), (*token).to_owned());
        }
        Ok(named)
    }

    /// Builds byte-level BPE with the pre-tokenizer `smollm`.
    fn byte_pairs(&self, tokens: &[&str]) -> Result<tokenizers::Tokenizer> {
        let merges = self.strings("tokenizer.ggml.merges")?.into_iter().map(|merge| {
            let (left, right) = merge
                .split_once(' ')
                .ok_or_else(|| self.wrong("tokenizer.ggml.merges", "two tokens with a space between"))?;
            Ok((left.to_owned(), right.to_owned()))
        });
        let merges = merges.collect::<Result<Vec<_>>>()?;
        let vocabulary = tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), id));
        let vocabulary: tokenizers::models::bpe::Vocab = vocabulary.collect();
        let wrong = |e: tokenizers::Error| Error::file(self.path, format!("tokenizer.ggml: {e}"));
        let bpe = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(wrong)?;
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ])));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.add_special_tokens(self.control_tokens(tokens)?).map_err(wrong)?;
        Ok(tokenizer)
    }

    fn control_tokens(&self, tokens: &[&str]) -> Result<Vec<AddedToken>> {
        let key = "tokenizer.ggml.token_type";
        let types = self.array(key)?;
        if types.len() != tokens.len() {
            return Err(self.wrong(key, &format!("{} entries, one a token", tokens.len())));
        }
        let control = tokens.iter().zip(types).filter(|(_, kind)| integer(kind) == Some(CONTROL));
        Ok(control.map(|(token, _)| AddedToken::from(*token, true)).collect())
    }
}

/// Reads an integer of any width that fits.
fn integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::I8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::I16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::I32(n) => Some(n.into()),
        Value::U64(n) => i64::try_from(n).ok(),
        Value::I64(n) => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs::File, path::PathBuf};

    use candle_core::quantized::gguf_file::VersionedMagic;

    use super::*;
    use crate::{item::Message, text::tokenizer::Surround};

    fn embedded() -> (PathBuf, Content) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
        let content = Content::read(&mut File::open(&path).unwrap()).unwrap();
        (path, content)
    }

    /// Ids are those of transformers 5.23 (tokenizers 0.23.3) for the same vocabulary and merges.
    #[test]
    fn ids_are_those_of_transformers() {
        let (path, content) = embedded();
        let text = read(&path, &content).unwrap();
        let table: [(&str, &[u32]); 7] = [
            (
                "In 1984, 12345 + 67.890 = \u{663}½²",
                &[
                    788, 216, 33, 41, 40, 36, 28, 216, 33, 34, 35, 36, 37, 1232, 216, 38, 39, 30, 40, 41, 32,
                    446, 216, 164, 113, 16738, 19133,
                ],
            ),
            (
                "naïve café — 東京 🦀👩\u{200d}👩\u{200d}👧 Ελλάδα",
                &[
                    3546, 46494, 37366, 1841, 17097, 247, 126, 16736, 122, 15107, 116, 218, 10813, 235, 119,
                    321, 231, 10813, 235, 119, 321, 231, 10813, 235, 117, 5664, 239, 17162, 17162, 26112,
                    29589, 8998,
                ],
            ),
            (
                "def f(x):\n    return x**2  # x²\n\tpass",
                &[1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 216, 907, 1792, 19133, 198, 197, 5467],
            ),
            (
                "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><file_sep>x<|im_end",
                &[1, 4093, 198, 6004, 2, 198, 0, 5, 104, 44, 108, 306, 79, 486],
            ),
            (
                "a  b   c\t\td\n\n\n e \u{a0} f\r\n   ",
                &[81, 216, 278, 256, 265, 197, 197, 84, 16506, 297, 3351, 250, 275, 3136],
            ),
            (
                "I'm you'LL they've O'Neil's don't",
                &[57, 5248, 346, 23, 16421, 502, 3543, 492, 23, 47917, 506, 1326, 982],
            ),
            ("   ", &[333]),
        ];
        for (string, want) in table {
            assert_eq!(text.tokenizer.ids(string, Surround::SpecialTokens).unwrap(), want, "{string:?}");
        }
    }

    /// The template adds a system message where there is none; ids as above.
    #[test]
    fn the_template_renders_as_in_transformers() {
        let (path, content) = embedded();
        let Text { tokenizer, template, pad_token_id } = read(&path, &content).unwrap();
        let template = template.unwrap();
        let mut messages = vec![Message::new("user", "What is 2+2?"), Message::new("assistant", "It is 4.")];
        let ids = |messages: &[Message]| {
            tokenizer.ids(&template.render(messages).unwrap(), Surround::Nothing).unwrap()
        };
        let turns = [
            1, 4093, 198, 1780, 314, 216, 34, 27, 34, 47, 2, 198, 1, 520, 9531, 198, 1589, 314, 216, 36, 30,
            2, 198,
        ];
        let default_system = [
            1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407,
            19712, 8182, 2, 198,
        ];
        assert_eq!(ids(&messages), [&default_system[..], &turns].concat());
        messages.insert(0, Message::new("system", "Be brief."));
        assert_eq!(ids(&messages), [&[1, 9690, 198, 6077, 5453, 30, 2, 198][..], &turns].concat());
        assert_eq!(pad_token_id, Some(2));
    }

    fn small(changes: &[(&str, Option<Value>)]) -> Result<Text> {
        let strings =
            |texts: &[&str]| Value::Array(texts.iter().map(|t| Value::String((*t).into())).collect());
        let text = |text: &str| Value::String(text.into());
        let mut metadata = HashMap::from(
            [
                ("tokenizer.ggml.model", text("gpt2")),
                ("tokenizer.ggml.pre", text("smollm")),
                ("tokenizer.ggml.tokens", strings(&["<s>", "a", "b", "ab", "</s>"])),
                ("tokenizer.ggml.merges", strings(&["a b"])),
                ("tokenizer.ggml.token_type", Value::Array([3, 1, 1, 1, 3].map(Value::I32).to_vec())),
                ("tokenizer.ggml.bos_token_id", Value::U32(0)),
                ("tokenizer.ggml.eos_token_id", Value::U32(4)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        for (key, value) in changes {
            match value {
                Some(value) => metadata.insert((*key).to_owned(), value.clone()),
                None => metadata.remove(*key),
            };
        }
        let content = Content {
            magic: VersionedMagic::GgufV3,
            metadata,
            tensor_infos: HashMap::new(),
            tensor_data_offset: 0,
        };
        read(Path::new("m.gguf"), &content)
    }

    #[test]
    fn flags_say_what_surrounds_a_text() {
        let flag = |name| (name, Some(Value::Bool(true)));
        let both =
            small(&[flag("tokenizer.ggml.add_bos_token"), flag("tokenizer.ggml.add_eos_token")]).unwrap();
        assert_eq!(both.tokenizer.ids("ab", Surround::SpecialTokens).unwrap(), [0, 3, 4]);
        let none = small(&[]).unwrap();
        assert_eq!(none.tokenizer.ids("a</s>b", Surround::SpecialTokens).unwrap(), [1, 4, 2]);
        assert_eq!(
            (none.tokenizer.eos(), none.pad_token_id, none.template.is_none()),
            (Some("</s>"), None, true)
        );
    }

    /// The embedded vocabulary has no merge of two digits, so it cannot show that digits are split.
    #[test]
    fn digits_stand_alone_whatever_the_merges_say() {
        let strings =
            |texts: &[&str]| Some(Value::Array(texts.iter().map(|t| Value::String((*t).into())).collect()));
        let text = small(&[
            ("tokenizer.ggml.tokens", strings(&["<s>", "1", "a", "11", "</s>"])),
            ("tokenizer.ggml.merges", strings(&["1 1"])),
        ]);
        assert_eq!(text.unwrap().tokenizer.ids("11a1", Surround::Nothing).unwrap(), [1, 1, 2, 1]);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let string = |text: &str| Some(Value::String(text.into()));
        let table = [
            ("tokenizer.ggml.model", string("llama"), "`llama` is not supported, only `gpt2` is"),
            ("tokenizer.ggml.pre", string("qwen2"), "`qwen2` is not supported, only `smollm` is"),
            ("tokenizer.ggml.pre", None, "missing"),
            ("tokenizer.ggml.tokens", string("a"), "expected an array"),
            ("tokenizer.ggml.merges", Some(Value::Array(vec![Value::U8(1)])), "expected an array of strings"),
            ("tokenizer.ggml.token_type", Some(Value::Array(vec![])), "expected 5 entries"),
            ("tokenizer.ggml.eos_token_id", Some(Value::U32(5)), "5 is past the 5 tokens"),
            ("tokenizer.ggml.padding_token_id", Some(Value::I32(-1)), "expected a token id"),
            ("tokenizer.ggml.add_bos_token", Some(Value::U8(1)), "expected a boolean"),
            ("tokenizer.chat_template", Some(Value::U8(1)), "expected a string"),
        ];
        for (key, value, want) in table {
            let message = small(&[(key, value)]).err().unwrap().to_string();
            assert!(message.starts_with(&format!("m.gguf: {key}: {want}")), "{message}");
        }
        let merges = Some(Value::Array(vec![Value::String("a c".into())]));
        assert!(small(&[("tokenizer.ggml.merges", merges)]).is_err());
    }
}
