//! `rewarden inspect`: what a checkpoint, an adapter or a posterior is, whether they fit each other, and what they will cost.

use super::{
    model::{ADAPTER, BaseArgs, embedded},
    output::write_stdout,
    place::Place,
};
use crate::{
    Error, Result,
    hub::Kind,
    model::{
        ACTIVATION_BYTES, adapter::Adapter, checkpoint::Checkpoint, cross_encoder::CrossEncoder, forward,
        head::Outputs, site::HEAD,
    },
    posterior::{Form, Posterior, Target, store},
};
use candle_core::Device;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

/// Bytes of a number in single precision.
const SINGLE: usize = 4;

/// Flags of `rewarden inspect`.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Checkpoints (folders, .gguf files), adapters (PEFT folders), names of either on the hub (`org/name[@revision]`), and
    /// posteriors (.safetensors files): adapters are held against the first checkpoint, posteriors against the adapter before
    /// them [default: the embedded model]
    #[arg(value_name = "PATH|NAME")]
    paths: Vec<Place>,
    /// Prints JSON instead of tables
    #[arg(long, env = "REWARDEN_JSON")]
    json: bool,
}

/// What a path holds.
enum Found {
    Checkpoint,
    CrossEncoder,
    Adapter,
    Posterior,
}

/// What is known of a path, in the order of its table.
struct Section {
    path: PathBuf,
    rows: Vec<(&'static str, Value)>,
}

/// What was opened, which later paths are held against.
#[derive(Default)]
struct Opened {
    base: Option<Checkpoint>,
    adapter: Option<Adapter>,
}

impl Inspect {
    /// Describes every path; what does not fit is an error that says why.
    pub fn run(self) -> Result<()> {
        let paths = match self.paths.is_empty() {
            true => vec![BaseArgs::embedded_path()?, embedded(ADAPTER)?],
            false => self.paths.iter().map(|place| place.path(Kind::Either)).collect::<Result<_>>()?,
        };
        let (mut opened, mut sections) = (Opened::default(), Vec::new());
        for path in paths {
            sections.extend(opened.describe(path)?);
        }
        write_stdout(&if self.json { as_json(&sections)? } else { as_tables(&sections) })
    }
}

impl Found {
    fn at(path: &Path) -> Result<Self> {
        let holds = |file: &str| path.join(file).exists();
        let ends = |end: &str| path.is_file() && path.extension().is_some_and(|e| e == end);
        match () {
            () if holds("adapter_config.json") => Ok(Self::Adapter),
            () if CrossEncoder::is_one(path) => Ok(Self::CrossEncoder),
            () if holds("config.json") || ends("gguf") => Ok(Self::Checkpoint),
            () if ends("safetensors") => Ok(Self::Posterior),
            () => {
                let hint =
                    "hint: a folder with config.json or adapter_config.json, a .gguf file, or a posterior";
                Err(Error::file(
                    path,
                    format!("neither a checkpoint nor an adapter nor a posterior ({hint})"),
                ))
            }
        }
    }
}

impl Opened {
    /// Describes a path, and with an adapter the posterior in its folder.
    fn describe(&mut self, path: PathBuf) -> Result<Vec<Section>> {
        match Found::at(&path)? {
            Found::Checkpoint => {
                let base = Checkpoint::open(&path)?;
                let rows = checkpoint(&base)?;
                self.base.get_or_insert(base);
                Ok(vec![Section { path, rows }])
            }
            Found::CrossEncoder => {
                let model = CrossEncoder::open(&path, &Outputs::Label(0), &Device::Cpu)?;
                Ok(vec![Section { path, rows: cross_encoder(&model) }])
            }
            Found::Adapter => {
                let base = match self.base.take() {
                    Some(base) => base,
                    None => Checkpoint::open(&BaseArgs::embedded_path()?)?,
                };
                let loaded = Adapter::load(&path, &base.config)?;
                let posterior = path.join(store::FILE);
                let mut sections = vec![Section { path, rows: adapter(&loaded, &base)? }];
                (self.base, self.adapter) = (Some(base), Some(loaded));
                if posterior.exists() {
                    sections.extend(self.describe(posterior)?);
                }
                Ok(sections)
            }
            Found::Posterior => Ok(vec![Section { rows: self.posterior(&path)?, path }]),
        }
    }

    fn posterior(&self, path: &Path) -> Result<Vec<(&'static str, Value)>> {
        let (posterior, fits) = match (&self.adapter, &self.base) {
            (Some(adapter), Some(base)) => {
                // A head of several outputs becomes one.
                let rows = |name: &str, t: &candle_core::Tensor| if name == HEAD { 1 } else { t.dims()[0] };
                let shape = |(name, t): (String, candle_core::Tensor)| {
                    let shape = (rows(&name, &t), t.dims()[1]);
                    (name, shape)
                };
                let trainable: BTreeMap<_, _> = adapter.blocks().into_iter().map(shape).collect();
                let (sha256, template) = (adapter.sha256()?, base.encoder.template_sha256());
                let target = Target {
                    trainable: &trainable,
                    adapter_sha256: &sha256,
                    forward_sha256: Some(&forward::sha256(base, adapter, &sha256)?),
                    template_sha256: template.as_deref(),
                    outputs: None,
                };
                let (posterior, warnings) = Posterior::load_for(path, target)?;
                let fits =
                    ["the adapter".to_owned()].into_iter().chain(warnings).collect::<Vec<_>>().join("; ");
                (posterior, Some(fits))
            }
            _ => (Posterior::load(path)?, None),
        };
        let mut rows = vec![("what", json!("Laplace posterior"))];
        match &posterior.form {
            Form::Blocks(blocks) => {
                rows.extend([("form", json!("separate blocks")), ("blocks", json!(blocks.len()))]);
            }
            Form::Sketch(sketch) => {
                let layout = sketch.layout();
                rows.extend([
                    ("form", json!("joint, in a random projection")),
                    ("features", json!(layout.features())),
                    ("slots", json!(layout.slots.len())),
                ]);
            }
        }
        if let Some(config) = &posterior.config {
            rows.extend([
                ("fitted to pairs", json!(config.pairs)),
                ("prior precision", json!(config.prior_precision)),
                ("effective parameters", json!(config.effective_parameters)),
                ("log evidence", json!(config.evidence)),
                ("novelty", json!(config.quantiles.is_some())),
                ("left out", json!(config.left_out)),
                ("version of the program", json!(config.version)),
            ]);
        }
        rows.push(("bytes", json!(std::fs::metadata(path).map_err(Error::io(path))?.len())));
        rows.extend(fits.map(|fits| ("fits", json!(fits))));
        Ok(rows)
    }
}

fn checkpoint(base: &Checkpoint) -> Result<Vec<(&'static str, Value)>> {
    let config = &base.config;
    let (linears, met) = config.linear_weights();
    let all: usize = base.weights.elements();
    let windows: Vec<usize> = config.sights.iter().filter_map(|sight| sight.window).collect();
    Ok(vec![
        ("what", json!("checkpoint")),
        ("family", json!(config.family)),
        ("layers", json!(config.layers)),
        ("hidden size", json!(config.hidden_size)),
        ("intermediate size", json!(config.intermediate_size)),
        (
            "experts",
            json!(config.mixture.map(|m| format!("{}, {} of them for a token", m.experts, m.chosen))),
        ),
        ("heads", json!(format!("{}, {} of keys, {} wide", config.heads, config.kv_heads, config.head_dim))),
        ("layers with a window", json!(windows.len())),
        ("vocabulary", json!(config.vocab_size)),
        ("longest sequence", json!(config.max_length)),
        ("chat template", json!(base.encoder.template_sha256())),
        ("outputs of its head", json!(base.head()?.map(|head| head.weight.dims()[0]))),
        ("parameters", json!(all)),
        ("memory for means", json!(SINGLE * all)),
        ("memory for variances", json!(SINGLE * (all + linears) + ACTIVATION_BYTES)),
        ("operations a token, mean", json!(2 * met)),
        ("operations a token, mean and variance", json!(4 * met)),
        ("not used", json!(base.warnings.len())),
    ])
}

fn cross_encoder(model: &CrossEncoder) -> Vec<(&'static str, Value)> {
    vec![
        ("what", json!("cross-encoder, for means")),
        ("family", json!(model.family)),
        ("vocabulary", json!(model.vocabulary)),
        ("longest sequence", json!(model.reader.max_length)),
        ("chat template", json!(model.reader.encoder.template_sha256())),
        ("parameters", json!(model.parameters)),
    ]
}

fn adapter(adapter: &Adapter, base: &Checkpoint) -> Result<Vec<(&'static str, Value)>> {
    let spec = &adapter.spec;
    let targets: Vec<&str> = spec.targets.iter().map(|projection| projection.name()).collect();
    let blocks = adapter.blocks();
    let parameters: usize = blocks.values().map(candle_core::Tensor::elem_count).sum();
    Ok(vec![
        ("what", json!("PEFT LoRA adapter")),
        ("rank", json!(spec.rank)),
        ("alpha", json!(spec.alpha)),
        ("rsLoRA", json!(spec.rslora)),
        ("targets", json!(targets)),
        ("sites", json!(adapter.lora.len())),
        ("uncertain parameters", json!(parameters)),
        ("taken as they are", json!(adapter.fixed().count())),
        ("outputs of its head", json!(adapter.head.as_ref().map(|head| head.weight.dims()[0]))),
        ("sha256", json!(adapter.sha256()?)),
        ("fits", json!(base.name)),
    ])
}

fn as_json(sections: &[Section]) -> Result<String> {
    let one = |section: &Section| {
        let mut map: Map<String, Value> =
            section.rows.iter().map(|(name, value)| (name.replace([' ', ','], "_"), value.clone())).collect();
        map.insert("path".into(), json!(section.path));
        Value::Object(map)
    };
    let all: Vec<Value> = sections.iter().map(one).collect();
    let text = serde_json::to_string_pretty(&all).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(text + "\n")
}

fn as_tables(sections: &[Section]) -> String {
    let mut text = String::new();
    for Section { path, rows } in sections {
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let _ = writeln!(text, "{}", path.display());
        for (name, value) in rows {
            let _ = writeln!(text, "  {name:width$}  {}", shown(name, value));
        }
        text.push('\n');
    }
    text
}

/// A value as people read it.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "-".into(),
        Value::Array(all) => all.iter().map(|value| shown("", value)).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{key} {}", shown("", value)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Number(number) => match number.as_u64() {
            Some(count) if name.starts_with("memory") || name == "bytes" => {
                format!("{:.1} MB", count as f64 / 1e6)
            }
            Some(count) if name.starts_with("operations") => format!("{:.3} G", count as f64 / 1e9),
            Some(count) => grouped(count),
            None => format!("{:.4}", number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// With a comma for every thousand.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!([grouped(999), grouped(1000), grouped(134_515_008)], ["999", "1,000", "134,515,008"]);
        assert_eq!(shown("bytes", &json!(1_500_000)), "1.5 MB");
        assert_eq!(shown("prior precision", &json!({"A": 0.5, "B": 2})), "A 0.5000, B 2");
        assert_eq!([shown("x", &json!(null)), shown("x", &json!(true))], ["-", "yes"]);
    }
}
