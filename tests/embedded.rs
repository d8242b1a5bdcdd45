//! The embedded base answers as it should, so GGUF, rotary embedding, tokenizer and template are known to be right; and
//! the embedded default is served with its posterior.

use candle_core::{D, DType, Device};
use rewarden::{
    item::{Input, Message},
    model::{
        RewardModel,
        adapter::{Adapter, LoraSpec},
        checkpoint::Checkpoint,
        site::Projection,
    },
    nn::pack::Packed,
    text::{Limit, TokenSeq, Truncation},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Most tokens that the answer may take.
const ANSWER: usize = 12;

#[test]
fn the_capital_of_france_is_paris() {
    let path = "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
    let base = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    assert!(base.warnings.is_empty(), "{:?}", base.warnings);
    // A new adapter changes nothing (B is zero); a reward model must have a head.
    let spec = LoraSpec { rank: 1, alpha: 1.0, rslora: false, targets: vec![Projection::Q] };
    let adapter = Adapter::init(spec, &base.config, 0).unwrap();
    let model = RewardModel::new(&base, Some(&adapter), DType::F32, &Device::Cpu).unwrap();
    let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    let prompt = format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n\
         <|im_start|>assistant\n"
    );
    let limit = Limit { max_length: 512, truncation: None };
    let mut ids = base.encoder.encode(&Input::Text(prompt), &limit).unwrap().ids;
    let asked = ids.len();
    for _ in 0..ANSWER {
        ids.push(greedy(&model, &ids));
    }
    let want =
        base.encoder.encode(&Input::Text("The capital of France is Paris.".into()), &limit).unwrap().ids;
    assert_eq!(ids[asked..asked + want.len()], want);
}

/// The likeliest next token, by the language model's head: the embedding, which is tied.
fn greedy(model: &RewardModel, ids: &[u32]) -> u32 {
    let sequence = TokenSeq { ids: ids.to_vec(), pooled: ids.len() - 1, truncated: false };
    let hidden = model.hidden(&Packed::sequences([&sequence])).unwrap();
    let logits = hidden.matmul(&model.embedding().t().unwrap()).unwrap();
    logits.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap()[0]
}

/// A long text that is cut before it is tokenised has the tokens of the whole text, cut afterwards.
#[test]
fn a_long_text_is_cut_as_if_it_were_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let base = root.join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let encoder = Checkpoint::encoder(&base).unwrap();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let texts = [
        read("docs/maths.md"),
        read("docs/formats.md"),
        read("src/engine.rs"),
        read("openapi/rewarden.json"),
    ];
    for text in texts {
        let input = Input::Text(text);
        let encode =
            |max_length, truncation| encoder.encode(&input, &Limit { max_length, truncation }).unwrap().ids;
        let whole = encode(10_000_000, None);
        for length in [16, 100, 512] {
            assert_eq!(encode(length, Some(Truncation::Right)), whole[..length]);
            assert_eq!(encode(length, Some(Truncation::Left)), whole[whole.len() - length..]);
        }
    }
}

/// The default reward model ranks an evident good answer above gibberish, an empty evasion and an off-topic answer.
#[test]
fn the_default_ranks_a_good_answer_first() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let base =
        Checkpoint::open(&models.join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let adapter = Adapter::load(&models.join("default"), &base.config).unwrap();
    let model = RewardModel::new(&base, Some(&adapter), DType::F32, &Device::Cpu).unwrap();
    let limit = Limit { max_length: 512, truncation: None };
    for (prompt, answers) in RANKED {
        let encode = |answer: &str| {
            let messages = vec![Message::new("user", prompt), Message::new("assistant", answer)];
            base.encoder.encode(&Input::Messages(messages), &limit).unwrap()
        };
        let sequences: Vec<TokenSeq> = answers.iter().map(|answer| encode(answer)).collect();
        let rewards = model.rewards(&Packed::sequences(&sequences)).unwrap();
        for (answer, reward) in answers.iter().zip(&rewards).skip(1) {
            assert!(
                rewards[0] > *reward,
                "{prompt}: {answer:?} has {reward}, the good answer {}",
                rewards[0]
            );
        }
    }
}

/// A prompt with a good answer, gibberish, an evasion, an empty answer and one to another question. No such prompt is in
/// the training data.
const RANKED: [(&str, [&str; 5]); 3] = [
    (
        "How do I boil an egg?",
        [
            "Place the egg in a pot of cold water, bring it to a boil, then turn off the heat and cover the pot. Wait \
             about 6 minutes for a soft yolk or 10 to 12 minutes for a hard one, then cool the egg in cold water \
             before peeling.",
            "fjdk qpw zzx egg lorp blib 93 #% egg egg wuth nad plo fthm qzrk vv vv aop",
            "I'm sorry, but I can't help with that.",
            "",
            "The French Revolution began in 1789 with the storming of the Bastille, and it led to the end of the \
             monarchy in France and the rise of Napoleon Bonaparte.",
        ],
    ),
    (
        "What is the capital of France, and what is it known for?",
        [
            "The capital of France is Paris. It is known for the Eiffel Tower, the Louvre museum, its cafés and its \
             long history as a centre of art, fashion and food.",
            "xq fromble the the of of capital zanth 44 yyu Paris gr gr gr nnn opqr",
            "I don't know.",
            "",
            "To change a tire, loosen the lug nuts, jack up the car, remove the flat tire, put on the spare, and \
             tighten the nuts again in a star pattern.",
        ],
    ),
    (
        "Explain photosynthesis in two sentences.",
        [
            "Photosynthesis is the process by which plants, algae and some bacteria turn sunlight, water and carbon \
             dioxide into sugar and oxygen. The sugar stores energy for the plant, and the oxygen is released into \
             the air.",
            "asdf asdf light plant plant plant plant qwer zxcv 1234 plant",
            "I would rather not answer that question.",
            "",
            "My favourite football team won the match yesterday by three goals. The weather was cold, but everyone \
             had a good time.",
        ],
    ),
];

/// The program itself, without flags but for a free port; killed when dropped.
struct Served {
    program: Child,
    address: String,
}

impl Served {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rewarden"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REWARDEN_")) {
            command.env_remove(name);
        }
        let mut program = command
            .env("HF_HUB_OFFLINE", "1")
            .args(["serve", "--port", "0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = log.find_map(|line| {
            let address = line.split_once("listening on ")?.1;
            address.split_whitespace().next().map(str::to_owned)
        });
        // What is not read any more must not stop the program.
        std::thread::spawn(move || log.for_each(drop));
        Self { program, address: address.expect("the server ended before it listened") }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[tokio::test]
async fn the_default_is_served_with_its_posterior() {
    let served = Served::start();
    assert!(served.address.starts_with("http://127.0.0.1:"), "{}", served.address);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let started = Instant::now();
    let ready = format!("{}/readyz", served.address);
    while client.get(&ready).send().await.unwrap().status() != 200 {
        assert!(started.elapsed() < Duration::from_secs(120), "not ready in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let item = |response: &str| json!({"prompt": "What is the capital of France?", "response": response});
    // By the adapter's stored rule, and by one that is named.
    for penalty in [Value::Null, json!({"kind": "std"})] {
        let items = [item("Paris."), item("I would rather talk about the weather.")];
        let request = json!({"items": items, "penalty": penalty});
        let response =
            client.post(format!("{}/v1/rewards", served.address)).json(&request).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["data"].as_array().unwrap().len(), 2, "{body}");
        for reward in body["data"].as_array().unwrap() {
            // JSON has no number that is not finite.
            let number = |name: &str| reward[name].as_f64().unwrap_or_else(|| panic!("{name}: {body}"));
            let (mean, variance, std) = (number("mean"), number("variance"), number("std"));
            assert!(variance > 0.0 && std == variance.sqrt(), "{body}");
            assert!(penalty.is_null() || number("score") == mean - std, "{body}");
            for name in ["contraction", "novelty", "variance_percentile"] {
                assert!((0.0..=1.0).contains(&number(name)), "{name}: {body}");
            }
        }
        assert_eq!(
            body["penalty"]["kind"] == "std",
            !penalty.is_null(),
            "the default has a rule of its own: {body}"
        );
    }
}
