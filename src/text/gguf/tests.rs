use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use candle_core::quantized::gguf_file::{Content, Value, VersionedMagic};
use serde::Deserialize;

use super::*;
use crate::{item::Message, text::tokenizer::Surround};

fn embedded() -> Text {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    read(&Gguf::open(&path).unwrap()).unwrap()
}

/// Ids are those of transformers 5.23 (tokenizers 0.23.3) for the same vocabulary and merges.
#[test]
fn ids_are_those_of_transformers() {
    let text = embedded();
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
                3546, 46494, 37366, 1841, 17097, 247, 126, 16736, 122, 15107, 116, 218, 10813, 235, 119, 321,
                231, 10813, 235, 119, 321, 231, 10813, 235, 117, 5664, 239, 17162, 17162, 26112, 29589, 8998,
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
    let Text { tokenizer, template, pad_token_id } = embedded();
    let template = template.unwrap();
    let mut messages = vec![Message::new("user", "What is 2+2?"), Message::new("assistant", "It is 4.")];
    let ids =
        |messages: &[Message]| tokenizer.ids(&template.render(messages).unwrap(), Surround::Nothing).unwrap();
    let turns = [
        1, 4093, 198, 1780, 314, 216, 34, 27, 34, 47, 2, 198, 1, 520, 9531, 198, 1589, 314, 216, 36, 30, 2,
        198,
    ];
    let default_system = [
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712,
        8182, 2, 198,
    ];
    assert_eq!(ids(&messages), [&default_system[..], &turns].concat());
    messages.insert(0, Message::new("system", "Be brief."));
    assert_eq!(ids(&messages), [&[1, 9690, 198, 6077, 5453, 30, 2, 198][..], &turns].concat());
    assert_eq!(pad_token_id, Some(2));
}

fn string(text: &str) -> Value {
    Value::String(text.into())
}

fn strings<T: AsRef<str>>(texts: &[T]) -> Value {
    Value::Array(texts.iter().map(|text| string(text.as_ref())).collect())
}

fn text_of(metadata: HashMap<String, Value>) -> Result<Text> {
    let content = Content {
        magic: VersionedMagic::GgufV3,
        metadata,
        tensor_infos: HashMap::new(),
        tensor_data_offset: 0,
    };
    read(&Gguf::new(Path::new("m.gguf"), content))
}

fn small(changes: &[(&str, Option<Value>)]) -> Result<Text> {
    let metadata = [
        ("tokenizer.ggml.model", string("gpt2")),
        ("tokenizer.ggml.pre", string("smollm")),
        ("tokenizer.ggml.tokens", strings(&["<s>", "a", "b", "ab", "</s>"])),
        ("tokenizer.ggml.merges", strings(&["a b"])),
        ("tokenizer.ggml.token_type", Value::Array([3, 1, 1, 1, 3].map(Value::I32).to_vec())),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(4)),
    ];
    let mut metadata = HashMap::from(metadata.map(|(key, value)| (key.to_owned(), value)));
    for (key, value) in changes {
        match value {
            Some(value) => metadata.insert((*key).to_owned(), value.clone()),
            None => metadata.remove(*key),
        };
    }
    text_of(metadata)
}

/// `tests/fixtures/gguf_tokenizers.py` says what they are.
#[derive(Deserialize)]
struct Fixture {
    strings: Vec<String>,
    byte_pairs: Known<BTreeMap<String, Vec<Vec<u32>>>>,
    llama: Known<Vec<Vec<u32>>>,
    phi3: Known<Vec<Vec<u32>>>,
    gemma: Known<Vec<Vec<u32>>>,
}

#[derive(Deserialize)]
struct Known<Ids> {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Option<Vec<String>>,
    scores: Option<Vec<f32>>,
    bos: u32,
    eos: u32,
    #[serde(default)]
    add_space_prefix: bool,
    ids: Ids,
}

impl Fixture {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/tokenizers.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

impl<Ids> Known<Ids> {
    fn text(&self, [model, pre, architecture]: [&str; 3]) -> Text {
        let mut metadata = vec![
            ("general.architecture", string(architecture)),
            ("tokenizer.ggml.model", string(model)),
            ("tokenizer.ggml.pre", string(pre)),
            ("tokenizer.ggml.tokens", strings(&self.tokens)),
            ("tokenizer.ggml.token_type", Value::Array(self.types.iter().copied().map(Value::I32).collect())),
            ("tokenizer.ggml.add_space_prefix", Value::Bool(self.add_space_prefix)),
            ("tokenizer.ggml.bos_token_id", Value::U32(self.bos)),
            ("tokenizer.ggml.eos_token_id", Value::U32(self.eos)),
        ];
        if let Some(merges) = &self.merges {
            metadata.push(("tokenizer.ggml.merges", strings(merges)));
        }
        if let Some(scores) = &self.scores {
            let scores = scores.iter().copied().map(Value::F32).collect();
            metadata.push(("tokenizer.ggml.scores", Value::Array(scores)));
        }
        text_of(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()).unwrap()
    }
}

fn assert_ids(what: &str, text: &Text, strings: &[String], want: &[Vec<u32>]) {
    for (string, want) in strings.iter().zip(want) {
        assert_eq!(&text.tokenizer.ids(string, Surround::Nothing).unwrap(), want, "{what}: {string:?}");
    }
}

#[test]
fn every_pre_tokenizer_cuts_as_its_models_do() {
    let Fixture { strings, byte_pairs, .. } = Fixture::read();
    for (pre, want) in &byte_pairs.ids {
        assert_ids(pre, &byte_pairs.text(["gpt2", pre, "llama"]), &strings, want);
    }
    // Each has a case of its own.
    let all = pre_tokenizer::ALL.map(|known| known.names().next().unwrap());
    assert!(byte_pairs.ids.keys().map(String::as_str).eq(BTreeSet::from(all)));
}

#[test]
fn sentence_pieces_are_those_of_others() {
    let Fixture { strings, llama, phi3, gemma, .. } = Fixture::read();
    assert_ids("llama", &llama.text(["llama", "default", "llama"]), &strings, &llama.ids);
    assert_ids("phi3", &phi3.text(["llama", "default", "phi3"]), &strings, &phi3.ids);
    assert_ids("gemma", &gemma.text(["llama", "default", "gemma2"]), &strings, &gemma.ids);
}

#[test]
fn a_kind_says_whether_a_text_begins_with_bos_where_the_file_does_not() {
    let Fixture { byte_pairs, llama, .. } = Fixture::read();
    let first = |text: Text| text.tokenizer.ids("a", Surround::SpecialTokens).unwrap()[0];
    assert_eq!(first(llama.text(["llama", "default", "llama"])), llama.bos);
    assert_eq!(first(byte_pairs.text(["gpt2", "llama-bpe", "llama"])), byte_pairs.bos);
    assert_ne!(first(byte_pairs.text(["gpt2", "qwen2", "llama"])), byte_pairs.bos);
}

/// Truncation cuts by the bytes that tokens cover.
#[test]
fn sentence_pieces_cover_the_bytes_of_the_text() {
    let Fixture { llama, .. } = Fixture::read();
    let string = "hi \u{6771}\u{4eac} there <|im_end|> x";
    let pieces =
        llama.text(["llama", "default", "llama"]).tokenizer.pieces(string, Surround::Nothing).unwrap();
    let mut end = 0;
    for piece in pieces {
        let bytes = piece.bytes.unwrap();
        assert!(bytes.start <= end && bytes.end >= end, "{bytes:?} after {end}");
        end = bytes.end;
    }
    assert_eq!(end, string.len());
}

#[test]
fn flags_say_what_surrounds_a_text() {
    let flag = |name| (name, Some(Value::Bool(true)));
    let both = small(&[flag("tokenizer.ggml.add_bos_token"), flag("tokenizer.ggml.add_eos_token")]).unwrap();
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
    let text = small(&[
        ("tokenizer.ggml.tokens", Some(strings(&["<s>", "1", "a", "11", "</s>"]))),
        ("tokenizer.ggml.merges", Some(strings(&["1 1"]))),
    ]);
    assert_eq!(text.unwrap().tokenizer.ids("11a1", Surround::Nothing).unwrap(), [1, 1, 2, 1]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let strings = |texts: &[&str]| Some(strings(texts));
    let string = |text: &str| Some(string(text));
    let table = [
        ("tokenizer.ggml.model", string("t5"), "`t5` is not supported (hint: gpt2 and llama are)"),
        ("tokenizer.ggml.model", None, "missing"),
        ("tokenizer.ggml.pre", string("viking"), "`viking` is not supported (hint: default, gpt-2"),
        ("tokenizer.ggml.pre", None, "missing"),
        ("tokenizer.ggml.tokens", string("a"), "expected an array of strings"),
        ("tokenizer.ggml.merges", None, "missing"),
        ("tokenizer.ggml.merges", Some(Value::Array(vec![Value::U8(1)])), "expected an array of strings"),
        ("tokenizer.ggml.merges", strings(&["ab"]), "expected two tokens with a space between, not `ab`"),
        ("tokenizer.ggml.merges", strings(&["a c"]), ""),
        ("tokenizer.ggml.token_type", None, "missing"),
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
    let pieces = |change| {
        let changes = [
            ("tokenizer.ggml.model", string("llama")),
            ("tokenizer.ggml.merges", None),
            ("tokenizer.ggml.scores", change),
        ];
        small(&changes).err().unwrap().to_string()
    };
    assert_eq!(pieces(None), "m.gguf: tokenizer.ggml.scores: missing");
    let wrong = pieces(Some(Value::Array(vec![Value::F32(0.0)])));
    assert_eq!(wrong, "m.gguf: tokenizer.ggml.scores: expected 5 entries, one a token");
    let no_bos =
        [("tokenizer.ggml.bos_token_id", None), ("tokenizer.ggml.add_bos_token", Some(Value::Bool(true)))];
    let message = small(&no_bos).err().unwrap().to_string();
    assert_eq!(message, "m.gguf: tokenizer.ggml.add_bos_token: true, but the file names no bos_token");
}
