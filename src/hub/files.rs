//! Which files of a repository are read.

use super::is_file_name;
use crate::{
    Result,
    model::checkpoint::{self, INDEX, WHOLE},
};
use std::{collections::BTreeSet, path::Path};

/// Shards of a checkpoint; the largest in use have under two hundred.
const MAX_SHARDS: usize = 1024;
/// What turns text into tokens.
const TEXT: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
];
/// What `train` and `fit` put beside the weights.
const FITTED: [&str; 2] = ["training.json", "posterior.safetensors"];
const CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER: &str = "adapter_model.safetensors";

/// What a repository is opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A base model.
    Checkpoint,
    /// Template and tokenizer of a base model.
    Text,
    /// A PEFT LoRA adapter.
    Adapter,
    /// Whichever of a checkpoint and an adapter it is.
    Either,
}

impl Kind {
    /// The files to have of those that are there (`names`), the weights last: a folder with them is complete. Of a sharded
    /// checkpoint the last is the index, whose [`shards`] follow.
    ///
    /// # Errors
    ///
    /// A message: a file is missing, or the weights are pickles.
    pub(super) fn files(self, names: &BTreeSet<String>) -> Result<Vec<String>, String> {
        let has = |name: &str| names.contains(name);
        let (needed, weights) = match self {
            Self::Either if has(ADAPTER_CONFIG) => return Self::Adapter.files(names),
            Self::Either => return Self::Checkpoint.files(names),
            Self::Adapter => (&[ADAPTER_CONFIG][..], Some(ADAPTER)),
            Self::Text => (&[CONFIG, "tokenizer.json"][..], None),
            Self::Checkpoint if has(INDEX) => (&[CONFIG, "tokenizer.json"][..], Some(INDEX)),
            Self::Checkpoint => (&[CONFIG, "tokenizer.json"][..], Some(WHOLE)),
        };
        if let Some(weights) = weights.filter(|weights| !has(weights)) {
            return Err(without(weights, names));
        }
        if let Some(missing) = needed.iter().find(|name| !has(name)) {
            return Err(format!("{missing} is not there"));
        }
        let fitted = FITTED.iter().filter(|_| self != Self::Text);
        let optional = TEXT.iter().chain(fitted).filter(|name| has(name) && !needed.contains(name));
        let all = optional.chain(needed).copied().chain(weights);
        Ok(all.map(str::to_owned).collect())
    }
}

/// The shards that an index names, all of which are there.
///
/// # Errors
///
/// A message: the index cannot be read, or names what is no shard of safetensors or is not there.
pub(super) fn shards(index: &Path, names: &BTreeSet<String>) -> Result<Vec<String>, String> {
    let shards = checkpoint::shards(index).map_err(|e| e.to_string())?;
    let wrong = |name: &&String| !is_file_name(name) || !name.ends_with(".safetensors");
    if let Some(name) = shards.iter().find(wrong) {
        return Err(format!("{}: `{name}` is not a file of safetensors", INDEX));
    }
    if shards.len() > MAX_SHARDS {
        return Err(format!("{}: {} shards, at most {MAX_SHARDS} are read", INDEX, shards.len()));
    }
    match shards.iter().find(|name| !names.contains(*name)) {
        Some(name) => Err(format!("{name} is not there")),
        None => Ok(shards.into_iter().collect()),
    }
}

/// Why there are no weights.
fn without(weights: &str, names: &BTreeSet<String>) -> String {
    let ends = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    if let Some(pickle) = ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
        let hint = "hint: save the model again with `safe_serialization=True`";
        return format!(
            "only pickles ({pickle}), which are refused: to read one is to run its code ({hint})"
        );
    }
    let hint = match () {
        () if ends(&[".gguf"]).is_some() => " (hint: download the .gguf file and give its path)",
        () if weights != ADAPTER && names.contains(ADAPTER_CONFIG) => {
            " (hint: an adapter is given as `--adapter`)"
        }
        () if weights == ADAPTER && names.contains(CONFIG) => " (hint: a base model is given as `--model`)",
        () => "",
    };
    format!("{weights} is not there{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(kind: Kind, names: &str) -> Result<String, String> {
        let names = names.split(' ').map(str::to_owned).collect();
        kind.files(&names).map(|files| files.join(" "))
    }

    #[test]
    fn what_is_read_is_taken_and_nothing_else() {
        let base = "README.md config.json model.safetensors pytorch_model.bin tokenizer.json x/config.json";
        let whole = Ok("config.json tokenizer.json model.safetensors".to_owned());
        assert_eq!(files(Kind::Checkpoint, base), whole);
        assert_eq!(files(Kind::Either, base), whole);
        assert_eq!(files(Kind::Text, base), Ok("config.json tokenizer.json".into()));
        let fitted = format!("{base} chat_template.jinja posterior.safetensors");
        let want = "chat_template.jinja posterior.safetensors config.json tokenizer.json model.safetensors";
        assert_eq!(files(Kind::Checkpoint, &fitted), Ok(want.into()));
        let adapter = "adapter_config.json adapter_model.safetensors config.json training.json";
        let want = Ok("training.json adapter_config.json adapter_model.safetensors".into());
        assert_eq!(files(Kind::Adapter, adapter), want);
        assert_eq!(files(Kind::Either, adapter), want);
        let sharded = "config.json tokenizer.json model.safetensors.index.json model.safetensors";
        let want = "config.json tokenizer.json model.safetensors.index.json";
        assert_eq!(files(Kind::Checkpoint, sharded), Ok(want.into()));
    }

    #[test]
    fn what_is_missing_is_said() {
        for (kind, names, want) in [
            (Kind::Checkpoint, "config.json pytorch_model.bin", "only pickles (pytorch_model.bin)"),
            (Kind::Adapter, "adapter_config.json adapter_model.bin", "only pickles (adapter_model.bin)"),
            (Kind::Checkpoint, "model.Q4_1.gguf", "model.safetensors is not there (hint: download the .gguf"),
            (Kind::Checkpoint, "adapter_config.json adapter_model.safetensors", "(hint: an adapter is given"),
            (Kind::Adapter, "config.json model.safetensors", "(hint: a base model is given"),
            (Kind::Checkpoint, "model.safetensors config.json", "tokenizer.json is not there"),
            (Kind::Text, "tokenizer.json", "config.json is not there"),
            (Kind::Either, "README.md", "model.safetensors is not there"),
        ] {
            let message = files(kind, names).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn shards_are_safetensors_beside_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join(INDEX);
        let read = |shards: &[String]| {
            let map: serde_json::Map<_, _> =
                shards.iter().enumerate().map(|(i, name)| (i.to_string(), name.as_str().into())).collect();
            std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
            super::shards(&index, &BTreeSet::from(["a.safetensors".to_owned()]))
        };
        assert_eq!(read(&["a.safetensors".into()]), Ok(vec!["a.safetensors".into()]));
        for (name, want) in [
            ("../a.safetensors", "is not a file name"),
            ("pytorch_model.bin", "`pytorch_model.bin` is not a file of safetensors"),
            ("a?.safetensors", "is not a file of safetensors"),
            ("b.safetensors", "b.safetensors is not there"),
        ] {
            let message = read(&[name.into()]).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
        let many: Vec<String> = (0..=MAX_SHARDS).map(|i| format!("{i}.safetensors")).collect();
        assert!(read(&many).unwrap_err().contains("1025 shards"));
    }
}
