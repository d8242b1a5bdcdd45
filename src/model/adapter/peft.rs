//! PEFT's `adapter_config.json`: what it says about a decoder's linear layers, and how it is written.

use super::{Adapter, LoraSpec};
use crate::{
    Error, Result,
    model::{
        config::Config,
        site::{Projection, Site},
    },
};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Largest rank that is read; a guard against overflow.
const LARGEST_RANK: usize = 1 << 16;

/// Keys that do not change what the adapter computes.
const NEUTRAL: [&str; 22] = [
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
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
    "use_bdlora",
    "monteclora_config",
];

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
    rank_pattern: Map<String, Value>,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
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

/// What a configuration says.
pub struct Parsed {
    pub spec: LoraSpec,
    /// Where, with the rank and the scale that hold there.
    pub sites: Vec<(Site, usize, f64)>,
    /// Whether the reward head is among the saved modules.
    pub head: bool,
}

/// Parses a configuration into how updates are formed and where; refuses what is not supported.
pub fn parse(path: &Path, json: &[u8], base: &Config) -> Result<Parsed> {
    let wrong = |e: &dyn std::fmt::Display| Error::file(path, e);
    let raw: Raw = serde_json::from_slice(json).map_err(|e| wrong(&e))?;
    raw.refuse_unsupported().map_err(|e| wrong(&e))?;
    let all = (0..base.layers).flat_map(|layer| Projection::ALL.map(|projection| Site { layer, projection }));
    let targeted = raw.target_modules.matcher().map_err(|e| wrong(&e))?;
    let sites: Vec<Site> = all.filter(|site| raw.transforms(site.layer) && targeted(site)).collect();
    if sites.is_empty() {
        return Err(wrong(&"target_modules: no linear layer of the model matches"));
    }
    let targets =
        Projection::ALL.into_iter().filter(|p| sites.iter().any(|site| site.projection == *p)).collect();
    let head = raw.modules_to_save.iter().flatten().any(|module| module == "score");
    let spec = LoraSpec { rank: raw.r, alpha: raw.lora_alpha, rslora: raw.use_rslora, targets };
    let placed = sites.into_iter().map(|site| {
        let rank = pattern(&raw.rank_pattern, &site, "rank_pattern")?.unwrap_or(raw.r as f64);
        if rank.fract() != 0.0 || !(1.0..=LARGEST_RANK as f64).contains(&rank) {
            return Err(format!("rank_pattern: {rank} is not a rank"));
        }
        let alpha = pattern(&raw.alpha_pattern, &site, "alpha_pattern")?.unwrap_or(raw.lora_alpha);
        let spec = LoraSpec { rank: rank as usize, alpha, ..spec.clone() };
        Ok((site, spec.rank, spec.scale()))
    });
    let sites = placed.collect::<Result<_, String>>().map_err(|e| wrong(&e))?;
    Ok(Parsed { spec, sites, head })
}

/// The number of the first pattern that matches the end of the site's name, by PEFT's rule.
fn pattern(patterns: &Map<String, Value>, site: &Site, key: &str) -> Result<Option<f64>, String> {
    for (pattern, value) in patterns {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|e| format!("{key}: {e}"))?;
        if regex.is_match(&site.to_string()) {
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
        if self.bias != "none" {
            return Err(format!("bias: `{}` is not supported (hint: `none` is)", self.bias));
        }
        // PEFT lists `classifier` with `score` for sequence classification; a decoder has no such module.
        let modules = self.modules_to_save.iter().flatten();
        if let Some(other) = modules.into_iter().find(|m| !["score", "classifier"].contains(&m.as_str())) {
            return Err(format!("modules_to_save: `{other}` is not supported (hint: `score` is)"));
        }
        let on = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        match self.rest.iter().find(|(key, value)| on(value) && !NEUTRAL.contains(&key.as_str())) {
            Some((key, _)) => Err(format!("{key}: not supported")),
            None => Ok(()),
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

impl Targets {
    /// PEFT's rule: a list names the end of a module's dotted name, a string is a pattern for all of it.
    fn matcher(&self) -> Result<Matcher<'_>, String> {
        match self {
            Self::Names(names) => Ok(Box::new(move |site| {
                let module = site.to_string();
                names.iter().any(|name| module == *name || module.ends_with(&format!(".{name}")))
            })),
            Self::Pattern(all) if all.eq_ignore_ascii_case("all-linear") => Ok(Box::new(|_| true)),
            Self::Pattern(pattern) => {
                let pattern =
                    Regex::new(&format!("^(?:{pattern})$")).map_err(|e| format!("target_modules: {e}"))?;
                Ok(Box::new(move |site| pattern.is_match(&site.to_string())))
            }
        }
    }
}

/// The configuration of `adapter`, as PEFT writes it.
pub fn render(adapter: &Adapter, base: &str) -> String {
    let spec = &adapter.spec;
    let targets: Vec<&str> = spec.targets.iter().map(|projection| projection.name()).collect();
    // A head outside `modules_to_save` would be ignored by PEFT.
    let saved = adapter.head.as_ref().map(|_| ["score"]);
    let config = json!({
        "peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": base, "inference_mode": true,
        "r": spec.rank, "lora_alpha": spec.alpha, "use_rslora": spec.rslora, "lora_dropout": 0.0, "bias": "none",
        "target_modules": targets, "modules_to_save": saved, "fan_in_fan_out": false, "init_lora_weights": true,
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Rope, Scaling};

    fn base() -> Config {
        Config {
            vocab_size: 10,
            hidden_size: 8,
            intermediate_size: 6,
            layers: 3,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            max_length: 64,
            rope: Rope { theta: 1e4, scaling: Scaling::Default },
            pad_token_id: None,
        }
    }

    fn sites(change: Value) -> Result<Vec<String>> {
        let mut config =
            json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]});
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        let parsed = parse(Path::new("adapter_config.json"), config.to_string().as_bytes(), &base())?;
        Ok(parsed.sites.iter().map(|(site, ..)| site.to_string()).collect())
    }

    #[test]
    fn targets_follow_peft() {
        assert_eq!(sites(json!({})).unwrap().len(), 6);
        assert_eq!(sites(json!({"target_modules": "all-linear"})).unwrap().len(), 21);
        assert_eq!(sites(json!({"target_modules": r".*\.(1|2)\.mlp\.(up|down)_proj"})).unwrap().len(), 4);
        assert_eq!(
            sites(json!({"layers_to_transform": [1]})).unwrap(),
            ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
        );
        assert_eq!(
            sites(json!({"target_modules": ["mlp.up_proj"], "layers_to_transform": 2})).unwrap(),
            ["model.layers.2.mlp.up_proj"]
        );
    }

    #[test]
    fn patterns_change_rank_and_scale() {
        let config = json!({
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"1.self_attn.q_proj": 4}, "alpha_pattern": {"v_proj": 3}
        });
        let parsed = parse(Path::new("x"), config.to_string().as_bytes(), &base()).unwrap();
        let placed: Vec<_> = parsed.sites.iter().map(|(_, rank, scale)| (*rank, *scale)).collect();
        assert_eq!(placed, [(2, 2.0), (2, 1.5), (4, 1.0), (2, 1.5), (2, 2.0), (2, 1.5)]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let table = [
            (json!({"peft_type": "IA3"}), "peft_type: `IA3`"),
            (json!({"use_dora": true}), "use_dora: not supported"),
            (json!({"fan_in_fan_out": true}), "fan_in_fan_out: not supported"),
            (json!({"lora_bias": true}), "lora_bias: not supported"),
            (json!({"bias": "all"}), "bias: `all`"),
            (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern: 0 is not a rank"),
            (json!({"alpha_pattern": {"(": 1}}), "alpha_pattern: regex"),
            (json!({"some_new_method": 3}), "some_new_method: not supported"),
            (json!({"modules_to_save": ["embed_tokens"]}), "modules_to_save: `embed_tokens`"),
            (json!({"target_modules": ["c_attn"]}), "target_modules: no linear layer"),
            (json!({"target_modules": "("}), "target_modules: regex"),
            (json!({"r": 0}), "r: 0 is not between"),
        ];
        for (change, want) in table {
            let message = sites(change).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
        assert!(sites(json!({"rank_pattern": {}, "use_dora": false, "megatron_core": "x"})).is_ok());
    }
}
