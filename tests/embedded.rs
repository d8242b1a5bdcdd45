//! The embedded base answers as it should: GGUF, rotary embedding, tokenizer and template are known to be right.

use candle_core::{D, DType, Device, Tensor};
use rewarden::{
    item::Input,
    model::{
        RewardModel,
        adapter::{Adapter, LoraSpec},
        checkpoint::Checkpoint,
        site::Projection,
    },
    nn::pack::Packed,
    text::{Limit, TokenSeq},
};
use std::path::Path;

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
    let last: Tensor = hidden.narrow(0, ids.len() - 1, 1).unwrap();
    let logits = last.matmul(&model.embedding().t().unwrap()).unwrap();
    logits.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap()[0]
}
