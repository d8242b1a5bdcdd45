//! PEFT's `adapter_config.json`: what it says about a decoder's linear layers.

use super::LoraSpec;
use crate::{
    Error, Result,
    model::{
        config::Config,
        site::{Projection, Site},
    },
};
use regex::Regex;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{fmt, path::Path};

/// Largest rank that is read; a guard against overflow.
const LARGEST_RANK: usize = 1 << 16;

/// Keys that do not change what the adapter computes.
const NEUTRAL: [&str; 16] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "megatron_config",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// PEFT lists `classifier` with `score` for sequence classification; a decoder has no such module.
const HEADS: [&str; 2] = ["score", "classifier"];

/// Ways to make new weights that leave the base's as they are; PEFT repeats the others when it loads an adapter.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    target_modules: Targets,
    layers_to_transform: Option<Layers>,
    /// Other ranks and alphas, by pattern for the end of a module's dotted name.
    #[serde(default)]
    rank_pattern: Patterns,
    #[serde(default)]
    alpha_pattern: Patterns,
    init_lora_weights: Option<Value>,
    #[serde(default)]
    use_dora: Option<bool>,
    #[serde(default)]
    lora_bias: Option<bool>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default = "none")]
    bias: String,
    /// Everything else.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn none() -> String {
    "none".into()
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Targets {
    /// `all-linear`, or a regular expression for a module's whole name.
    Pattern(String),
    /// Last parts of modules' names.
    Names(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or a list of numbers")]
enum Layers {
    One(usize),
    Many(Vec<usize>),
}

/// Numbers by pattern, in the file's order: the first that matches counts.
#[derive(Default)]
struct Patterns(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;

        impl<'de> Visitor<'de> for Ordered {
            type Value = Patterns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Patterns, E> {
                Ok(Patterns::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Patterns, A::Error> {
                let mut entries = Vec::<(String, Value)>::new();
                while let Some((pattern, value)) = map.next_entry::<String, Value>()? {
                    if entries.iter().any(|(known, _)| *known == pattern) {
                        return Err(de::Error::custom(format_args!("duplicate pattern `{pattern}`")));
                    }
                    entries.push((pattern, value));
                }
                Ok(Patterns(entries))
            }
        }

        deserializer.deserialize_any(Ordered)
    }
}

/// What a configuration says.
pub struct Parsed {
    pub spec: LoraSpec,
    /// Where, with the rank and the scale that hold there.
    pub sites: Vec<(Site, usize, f64)>,
    /// Whether the reward head is among the saved modules.
    pub head: bool,
    /// Rank and scale of the token embedding's update.
    pub embedding: Option<(usize, f64)>,
    pub with: With,
}

/// What the file holds beside factors and head.
#[derive(Debug, Default)]
pub struct With {
    /// A magnitude for every site (DoRA).
    pub magnitudes: bool,
    /// A bias of B for every site.
    pub lora_biases: bool,
    /// The base's biases, some or all.
    pub biases: bool,
    /// The token embedding under its update.
    pub embedding: bool,
    /// Last parts of the names of modules that are saved whole.
    saved: Vec<String>,
}

impl With {
    /// Whether a module of the base, or one that holds it, is saved whole.
    pub fn saves(&self, module: &str) -> bool {
        module.split('.').any(|part| self.saved.iter().any(|saved| saved == part))
    }
}

/// Parses a configuration into how updates are formed and where; refuses what is not supported.
pub fn parse(path: &Path, json: &[u8], base: &Config) -> Result<Parsed> {
    let wrong = |e: &dyn std::fmt::Display| Error::file(path, e);
    let raw: Raw = serde_json::from_slice(json).map_err(|e| wrong(&e))?;
    raw.refuse_unsupported().map_err(|e| wrong(&e))?;
    let targeted = raw.targeted().map_err(|e| wrong(&e))?;
    let sites: Vec<Site> = Site::all(base).filter(|site| targeted(site)).collect();
    if sites.is_empty() {
        return Err(wrong(&"target_modules: no linear layer of the model matches"));
    }
    let targets =
        Projection::ALL.into_iter().filter(|p| sites.iter().any(|site| site.projection == *p)).collect();
    let head = raw.modules_to_save.iter().flatten().any(|module| module == "score");
    let spec = LoraSpec { rank: raw.r, alpha: raw.lora_alpha, rslora: raw.use_rslora, targets };
    let formed = |module: &str| {
        let rank = pattern(&raw.rank_pattern, module, "rank_pattern")?.unwrap_or(raw.r as f64);
        if rank.fract() != 0.0 || !(1.0..=LARGEST_RANK as f64).contains(&rank) {
            return Err(format!("rank_pattern: {rank} is not a rank"));
        }
        let alpha = pattern(&raw.alpha_pattern, module, "alpha_pattern")?.unwrap_or(raw.lora_alpha);
        let spec = LoraSpec { rank: rank as usize, alpha, ..spec.clone() };
        Ok((spec.rank, spec.scale()))
    };
    let placed = sites.into_iter().map(|site| {
        let (rank, scale) = formed(&site.to_string())?;
        Ok((site, rank, scale))
    });
    let sites = placed.collect::<Result<_, String>>().map_err(|e| wrong(&e))?;
    let module = base.names.embedding_module();
    let embedding = match raw.names(module) {
        true => Some(formed(module).map_err(|e: String| wrong(&e))?),
        false => None,
    };
    let saved = raw.modules_to_save.iter().flatten().filter(|module| !HEADS.contains(&module.as_str()));
    let with = With {
        magnitudes: raw.use_dora == Some(true),
        lora_biases: raw.lora_bias == Some(true),
        biases: raw.bias != "none",
        embedding: embedding.is_some(),
        saved: saved.cloned().collect(),
    };
    Ok(Parsed { spec, sites, head, embedding, with })
}

/// The number of the first pattern that matches the end of the module's name, by PEFT's rule.
fn pattern(patterns: &Patterns, module: &str, key: &str) -> Result<Option<f64>, String> {
    for (pattern, value) in &patterns.0 {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|e| format!("{key}: {e}"))?;
        if regex.is_match(module) {
            let number = value.as_f64().filter(|number| number.is_finite());
            return number.map(Some).ok_or_else(|| format!("{key}: `{pattern}`: expected a number"));
        }
    }
    Ok(None)
}

impl Raw {
    fn refuse_unsupported(&self) -> Result<(), String> {
        if self.peft_type != "LORA" {
            return Err(format!("peft_type: `{}` is not supported (hint: `LORA` is)", self.peft_type));
        }
        if !(1..=LARGEST_RANK).contains(&self.r) {
            return Err(format!("r: {} is not between 1 and {LARGEST_RANK}", self.r));
        }
        if !self.lora_alpha.is_finite() {
            return Err(format!("lora_alpha: {} is not finite", self.lora_alpha));
        }
        if !["none", "all", "lora_only"].contains(&self.bias.as_str()) {
            return Err(format!(
                "bias: `{}` is not supported (hint: none, all and lora_only are)",
                self.bias
            ));
        }
        let start = self.init_lora_weights.as_ref().and_then(Value::as_str);
        if let Some(start) = start.filter(|start| !PLAIN_STARTS.contains(start)) {
            let hint = "hint: save it with `path_initial_model_for_weight_conversion`";
            return Err(format!("init_lora_weights: `{start}` changes the base's weights ({hint})"));
        }
        let on = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        match self.rest.iter().find(|(key, value)| on(value) && !NEUTRAL.contains(&key.as_str())) {
            Some((key, _)) => Err(format!("{key}: not supported")),
            None => Ok(()),
        }
    }

    /// Whether a module outside the layers is a target by its name.
    fn names(&self, module: &str) -> bool {
        match &self.target_modules {
            Targets::Names(names) => {
                names.iter().any(|name| name == module || module.ends_with(&format!(".{name}")))
            }
            Targets::Pattern(_) => false,
        }
    }

    fn transforms(&self, layer: usize) -> bool {
        match &self.layers_to_transform {
            None => true,
            Some(Layers::One(one)) => *one == layer,
            Some(Layers::Many(many)) => many.is_empty() || many.contains(&layer),
        }
    }
}

/// Whether a site is a target.
type Matcher<'a> = Box<dyn Fn(&Site) -> bool + 'a>;

impl Raw {
    /// PEFT's rule: a list names the end of a module's dotted name, a string is a pattern for all of it. A whole name in
    /// the list counts whatever `layers_to_transform` says.
    fn targeted(&self) -> Result<Matcher<'_>, String> {
        match &self.target_modules {
            Targets::Names(names) => Ok(Box::new(move |site| {
                let module = site.to_string();
                let end = |name: &String| module.ends_with(&format!(".{name}"));
                names.contains(&module) || (self.transforms(site.layer) && names.iter().any(end))
            })),
            Targets::Pattern(all) if all.eq_ignore_ascii_case("all-linear") => {
                Ok(Box::new(|site| self.transforms(site.layer)))
            }
            Targets::Pattern(pattern) => {
                let pattern =
                    Regex::new(&format!("^(?:{pattern})$")).map_err(|e| format!("target_modules: {e}"))?;
                Ok(Box::new(move |site| self.transforms(site.layer) && pattern.is_match(&site.to_string())))
            }
        }
    }
}

#[cfg(test)]
pub mod tests;
