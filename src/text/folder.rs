//! The tokenizer and the chat template of a Hugging Face checkpoint folder.
//!
//! `tokenizer.json` must be there; `tokenizer_config.json` (and the older `special_tokens_map.json`)
//! names the special tokens. The template is looked for where transformers looks, first found wins:
//! `chat_template.jinja`, `tokenizer_config.json`, `chat_template.json`; among named templates the one
//! called `default`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    template::Template,
    tokenizer::{Ends, SPECIAL_TOKENS, SpecialTokens, Tokenizer},
};
use crate::{Error, Result, files};

/// Bytes of `tokenizer.json`; the largest in use have under 40 MB.
const MAX_TOKENIZER: u64 = 256 << 20;
/// Bytes of every other file.
const MAX_CONFIG: u64 = 16 << 20;

/// What is read of `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.json`.
#[derive(Default, Deserialize)]
struct Config {
    chat_template: Option<Templates>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// One template, or several by name in either of two layouts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected `chat_template` to be a string, or templates with their names")]
enum Templates {
    One(String),
    List(Vec<Named>),
    Map(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// Reads the tokenizer and, where there is one, the chat template.
pub fn read(folder: &Path) -> Result<(Tokenizer, Option<Template>)> {
    let config_path = folder.join("tokenizer_config.json");
    let mut config: Config = json(&config_path)?.unwrap_or_default();
    let map: Config = json(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
    let named = special_tokens(&[&config, &map]);
    let surround = match (config.add_bos_token, config.add_eos_token) {
        (None, None) => None,
        (bos, eos) => Some(Ends { bos: bos.unwrap_or(false), eos: eos.unwrap_or(false) }),
    };
    let template = match template_source(folder, &config_path, config.chat_template.take())? {
        Some((path, source)) => Some(Template::compile(&path, &source, named.clone())?),
        None => None,
    };
    Ok((tokenizer(folder, SpecialTokens { named, surround })?, template))
}

fn tokenizer(folder: &Path, special: SpecialTokens) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    let bytes = bounded(&path, MAX_TOKENIZER)?.ok_or_else(|| {
        Error::file(&path, "missing (hint: load and save the tokenizer with transformers to get one)")
    })?;
    files::guarded(&path, || {
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| Error::file(&path, e))?;
        Tokenizer::new(&path, inner, special)
    })
}

/// Collects the named special tokens; the first config that names one wins.
fn special_tokens(configs: &[&Config]) -> BTreeMap<String, String> {
    let find = |name: &str| configs.iter().find_map(|config| token_text(config.rest.get(name)?));
    SPECIAL_TOKENS.iter().filter_map(|name| Some((name.to_string(), find(name)?.to_owned()))).collect()
}

/// A token is written as its text, or as an object with the text in `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Finds the template's source and the file that it stands in.
fn template_source(
    folder: &Path,
    config_path: &Path,
    in_config: Option<Templates>,
) -> Result<Option<(PathBuf, String)>> {
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = bounded(&path, MAX_CONFIG)? {
        let source = String::from_utf8(bytes).map_err(|e| Error::file(&path, e))?;
        return Ok(Some((path, source)));
    }
    if let Some(templates) = in_config {
        return Ok(Some((config_path.to_owned(), default_template(config_path, templates)?)));
    }
    let path = folder.join("chat_template.json");
    match json::<Config>(&path)?.and_then(|config| config.chat_template) {
        Some(templates) => default_template(&path, templates).map(|source| Some((path, source))),
        None => Ok(None),
    }
}

fn default_template(path: &Path, templates: Templates) -> Result<String> {
    let mut named: BTreeMap<String, String> = match templates {
        Templates::One(source) => return Ok(source),
        Templates::List(list) => list.into_iter().map(|Named { name, template }| (name, template)).collect(),
        Templates::Map(map) => map,
    };
    named.remove("default").ok_or_else(|| {
        let names = named.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Error::file(path, format!("chat_template: none is named `default`: {names}"))
    })
}

/// Reads a JSON file, if it is there.
fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = bounded(path, MAX_CONFIG)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::file(path, e))
}

/// Reads a file of at most `limit` bytes, if it is there.
fn bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match files::read(path, limit) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Message;

    const TOKENIZER: &str = r#"{"version":"1.0","truncation":{"max_length":1,"strategy":"LongestFirst","stride":0,
        "direction":"Right"},"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"<s>":2,"</s>":3},"unk_token":"a"}}"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("tokenizer.json", TOKENIZER)].iter().chain(files) {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn rendered(files: &[(&str, &str)]) -> Option<String> {
        let (_, template) = read(folder(files).path()).unwrap();
        template.map(|template| template.render(&[Message::new("user", "x")]).unwrap())
    }

    #[test]
    fn the_template_is_found_in_every_place_in_order() {
        let jinja = ("chat_template.jinja", "jinja");
        let config = ("tokenizer_config.json", r#"{"chat_template": "{{ bos_token }}", "bos_token": "<s>"}"#);
        let list = (
            "tokenizer_config.json",
            r#"{"chat_template": [{"name":"rag","template":"r"},{"name":"default","template":"d"}]}"#,
        );
        let json = ("chat_template.json", r#"{"chat_template": "json"}"#);
        assert_eq!(rendered(&[jinja, config, json]).as_deref(), Some("jinja"));
        assert_eq!(rendered(&[config, json]).as_deref(), Some("<s>"));
        assert_eq!(rendered(&[list]).as_deref(), Some("d"));
        assert_eq!(rendered(&[json]).as_deref(), Some("json"));
        assert_eq!(rendered(&[]), None);
    }

    #[test]
    fn special_tokens_come_from_either_file_and_either_layout() {
        let files = [
            ("tokenizer_config.json", r#"{"eos_token": {"content": "</s>", "special": true}}"#),
            ("special_tokens_map.json", r#"{"bos_token": "<s>", "eos_token": "a"}"#),
            ("chat_template.jinja", "{{ bos_token }}{{ eos_token }}"),
        ];
        assert_eq!(rendered(&files).as_deref(), Some("<s></s>"));
    }

    #[test]
    fn ends_follow_the_config_and_truncation_is_dropped() {
        use crate::text::tokenizer::Surround::{Nothing, SpecialTokens};
        let tokens = r#""bos_token": "<s>", "eos_token": "</s>""#;
        for (flags, want) in [
            ("", vec![0, 1]),
            (r#", "add_bos_token": true"#, vec![2, 0, 1]),
            (r#", "add_bos_token": true, "add_eos_token": true"#, vec![2, 0, 1, 3]),
        ] {
            let config = format!("{{{tokens}{flags}}}");
            let (tokenizer, _) = read(folder(&[("tokenizer_config.json", config.as_str())]).path()).unwrap();
            assert_eq!(tokenizer.ids("a b", SpecialTokens).unwrap(), want, "{flags}");
            assert_eq!(tokenizer.ids("a b", Nothing).unwrap(), [0, 1], "{flags}");
        }
    }

    #[test]
    fn every_bad_file_is_named() {
        let table = [
            (("tokenizer.json", "{"), "tokenizer.json: "),
            (("tokenizer_config.json", "["), "tokenizer_config.json: "),
            (("tokenizer_config.json", r#"{"chat_template": 3}"#), "to be a string"),
            (("tokenizer_config.json", r#"{"chat_template": {"rag": "r"}}"#), "none is named `default`: rag"),
            (("chat_template.jinja", "{% if %}"), "chat_template.jinja: syntax error"),
        ];
        for (file, want) in table {
            let message = read(folder(&[file]).path()).unwrap_err().to_string();
            assert!(message.contains(want), "{file:?}: {message}");
        }
        let empty = tempfile::tempdir().unwrap();
        let message = read(empty.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: missing") && message.contains("hint:"), "{message}");
    }
}
