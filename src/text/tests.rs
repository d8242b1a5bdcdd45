//! Inputs of every form, and what they are refused for.

use super::*;

/// A vocabulary of words: ids 0 to 7 as listed.
const WORDS: [&str; 8] = ["<s>", "</s>", "<pad>", "u:", "a:", "x", "y", "z"];

fn encoder(config: &str, pad_token_id: Option<u32>) -> Encoder {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "x"},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    Encoder::from_folder(folder.path(), pad_token_id).unwrap()
}

fn plain() -> Encoder {
    encoder(r#"{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}"#, None)
}

fn chat() -> Encoder {
    let template = "<s>{% for m in messages %} {{ m.role[0] }}: {{ m.content | trim }} </s>{% endfor %}";
    let config = serde_json::json!({
        "chat_template": template, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true
    });
    encoder(&config.to_string(), Some(1))
}

#[test]
fn a_bos_token_is_not_put_before_itself() {
    let limit = limit(99, None);
    let ids = |encoder: &Encoder, text: &str| encoder.encode(&Input::Plain(text.into()), &limit).unwrap().ids;
    for text in ["x y", "<s> x y", "<s>x y"] {
        assert_eq!(ids(&plain(), text), [0, 5, 6], "{text}");
    }
    // Where the tokenizer puts none there but the template does, so does this; where neither does, the text is as it is.
    let template = r#"{"bos_token": "<s>", "chat_template": "<s> {{ messages[0].content }}"}"#;
    for text in ["<s> x y", " x y"] {
        assert_eq!(ids(&encoder(template, None), text), [0, 5, 6], "{text}");
    }
    let none = encoder(r#"{"bos_token": "<s>"}"#, None);
    assert_eq!((ids(&none, "<s> x"), ids(&none, "x")), (vec![0, 5], vec![5]));
}

fn pair(prompt: &str, response: &str) -> Input {
    Input::Pair { prompt: prompt.into(), response: response.into() }
}

fn limit(max_length: usize, truncation: Option<Truncation>) -> Limit {
    Limit { max_length, truncation }
}

const WIDE: Limit = Limit { max_length: 100, truncation: None };

#[test]
fn without_a_template_text_is_surrounded_and_ends_in_eos_once() {
    let encoder = plain();
    assert_eq!(encoder.encode(&pair("x ", "y"), &WIDE).unwrap().ids, [0, 5, 6, 1]);
    assert_eq!(encoder.encode(&pair("x ", "y</s>"), &WIDE).unwrap().ids, [0, 5, 6, 1]);
    assert_eq!(encoder.encode(&Input::Text("x y".into()), &WIDE).unwrap().ids, [5, 6]);
    let messages = Input::Messages(vec![Message::new("user", "x")]);
    let message = encoder.encode(&messages, &WIDE).unwrap_err().to_string();
    assert!(message.starts_with("messages: the model has no chat template"), "{message}");
    assert_eq!(encoder.template_sha256(), None);
}

#[test]
fn with_a_template_strings_are_messages() {
    let encoder = chat();
    let said = [Message::new("user", "x"), Message::new("assistant", " y z ")];
    let ids = encoder.encode(&Input::Messages(said.to_vec()), &WIDE).unwrap().ids;
    assert_eq!(ids, [0, 3, 5, 1, 4, 6, 7, 1]);
    let answer = Input::Answer { prompt: said[..1].into(), response: said[1..].to_vec() };
    for input in [answer, pair("x", "y z")] {
        assert_eq!(encoder.encode(&input, &WIDE).unwrap().ids, ids);
    }
    assert_eq!(encoder.template_sha256().unwrap().len(), 64);
}

#[test]
fn the_rightmost_token_that_is_not_padding_is_pooled() {
    let table: [(&[u32], Option<u32>, usize); 5] = [
        (&[5, 6, 2, 2], Some(2), 1),
        (&[2, 2], Some(2), 0),
        (&[5, 2, 6], Some(2), 2),
        (&[5, 2], None, 1),
        (&[5], None, 0),
    ];
    for (ids, pad, want) in table {
        assert_eq!(pooled(ids, pad), want, "{ids:?}");
    }
    // Padding is EOS, as in many models: the end of the answer is pooled.
    assert_eq!(chat().encode(&pair("x", "y z"), &WIDE).unwrap().pooled, 6);
}

#[test]
fn truncation_cuts_where_it_says() {
    use Truncation::{KeepSuffix, Left, Right};
    let (input, text) = (pair("x", "y z y z"), Input::Text("x y z x y z x y z x".into()));
    let whole = [0, 3, 5, 1, 4, 6, 7, 6, 7, 1];
    let table: [(Truncation, usize, &[u32]); 5] = [
        (Left, 8, &whole[2..]),
        (Right, 8, &whole[..8]),
        (KeepSuffix, 8, &[0, 3, 5, 1, 4, 6, 7, 1]),
        (KeepSuffix, 6, &[0, 3, 5, 1, 4, 1]),
        (KeepSuffix, 10, &whole),
    ];
    for (truncation, length, want) in table {
        let cut = chat().encode(&input, &limit(length, Some(truncation))).unwrap();
        assert_eq!((&cut.ids[..], cut.truncated), (want, length < 10), "{truncation:?} {length}");
    }
    let cut = plain().encode(&pair("x ", "y z y"), &limit(4, Some(KeepSuffix))).unwrap();
    assert_eq!(cut.ids, [0, 5, 6, 1]);
    for (input, want) in [(&input, "5"), (&text, "`keep-suffix` needs")] {
        let message = chat().encode(input, &limit(5, Some(KeepSuffix))).unwrap_err().to_string();
        assert!(message.starts_with("truncation: ") && message.contains(want), "{message}");
    }
}

#[test]
fn a_refusal_names_the_field_that_was_sent() {
    let config = serde_json::json!({"chat_template": "{{ raise_exception('no') }}"}).to_string();
    let (refusing, said) = (encoder(&config, None), vec![Message::new("user", "x")]);
    let response = vec![Message::new("assistant", "y")];
    let answer = Input::Answer { prompt: said.clone().into(), response };
    let table = [(pair("x", "y"), "prompt: "), (answer, "prompt: "), (Input::Messages(said), "messages: ")];
    for (input, want) in table {
        let message = refusing.encode(&input, &WIDE).unwrap_err().to_string();
        assert!(message.starts_with(want) && message.contains("no"), "{message}");
        if !matches!(input, Input::Pair { .. }) {
            let message = plain().encode(&input, &WIDE).unwrap_err().to_string();
            assert!(message.starts_with(want) && message.contains("hint:"), "{message}");
        }
    }
}

#[test]
fn too_long_says_both_numbers() {
    let message = chat().encode(&pair("x", "y z y z"), &limit(9, None)).unwrap_err().to_string();
    assert!(message.contains("10 tokens") && message.contains("limit of 9"), "{message}");
}

#[test]
fn no_token_and_foreign_tokens_name_the_field() {
    let table = [
        (Input::Text("  ".into()), "text: no token at all"),
        (Input::Ids(vec![5, 8]), "input_ids: token 8 is not in the vocabulary of 8"),
    ];
    let encoder = plain().with_vocabulary(8);
    for (input, want) in table {
        assert_eq!(encoder.encode(&input, &WIDE).unwrap_err().to_string(), want);
    }
    assert_eq!(encoder.encode(&Input::Ids(vec![7, 0]), &WIDE).unwrap().ids, [7, 0]);
}

#[test]
fn truncation_has_the_names_of_the_interface() {
    for (name, want) in
        [("left", Truncation::Left), ("right", Truncation::Right), ("keep-suffix", Truncation::KeepSuffix)]
    {
        assert_eq!(serde_json::from_value::<Truncation>(name.into()).unwrap(), want);
        assert_eq!(<Truncation as clap::ValueEnum>::from_str(name, false), Ok(want));
    }
}

/// What is cut before it is tokenised comes to the tokens of the whole, cut afterwards.
#[test]
fn a_long_text_is_cut_as_if_it_were_whole() {
    use Truncation::{KeepSuffix, Left, Right};
    let words = |count: usize, seed: usize| -> String {
        (0..count).map(|i| ["x", "y", "z"][(i * i + seed * i + i / 7) % 3]).collect::<Vec<_>>().join(" ")
    };
    let whole = |encoder: &Encoder, input: &Input, truncation, length: usize| {
        let rendered = encoder.render(input).unwrap();
        let pieces = encoder.tokenizer.pieces(&rendered.text, rendered.surround).unwrap();
        let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
        match truncation {
            Left => ids[ids.len() - length..].to_vec(),
            Right => ids[..length].to_vec(),
            KeepSuffix => {
                let text = encoder.last_text(input, &rendered).unwrap();
                limit(length, None).cut_within(&pieces, text).unwrap()
            }
        }
    };
    let (short, long) = (words(5, 1), words(9000, 2));
    for encoder in [plain(), chat()] {
        for (truncation, input) in [
            (Left, pair(&long, &short)),
            (Left, pair(&short, &long)),
            (Right, pair(&long, &short)),
            (Right, pair(&short, &long)),
            (KeepSuffix, pair(&short, &long)),
        ] {
            for length in [20, 100] {
                let cut = encoder.encode(&input, &limit(length, Some(truncation))).unwrap();
                assert!(cut.truncated);
                assert_eq!(cut.ids, whole(&encoder, &input, truncation, length), "{truncation:?} {length}");
            }
        }
        let message = encoder.encode(&pair(&long, &short), &limit(20, None)).unwrap_err().to_string();
        assert!(message.contains("more than") && message.contains("limit of 20"), "{message}");
        let kept =
            encoder.encode(&pair(&long, &short), &limit(20, Some(KeepSuffix))).unwrap_err().to_string();
        assert!(kept.contains("leaves more than"), "{kept}");
    }
}

#[test]
fn nobody_waits_for_a_text_that_nobody_wants() {
    let encoder = chat();
    let gone = encoder.encode_while(&pair("x", "y"), &WIDE, &|| false);
    assert!(matches!(gone, Err(Error::Deadline)));
}
