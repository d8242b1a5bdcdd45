use std::{collections::HashMap, path::Path};

use candle_core::quantized::gguf_file::{Content, Value, VersionedMagic};

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

fn small(changes: &[(&str, Option<Value>)]) -> Result<Text> {
    let strings = |texts: &[&str]| Value::Array(texts.iter().map(|t| Value::String((*t).into())).collect());
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
    read(&Gguf::new(Path::new("m.gguf"), content))
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
