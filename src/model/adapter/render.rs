//! `adapter_config.json` as PEFT writes it, of what an adapter really holds: PEFT finds just its modules, each with its
//! rank and scale.

use super::{Adapter, LoraSpec};
use crate::model::site::{Projection, Site};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The configuration of `adapter`; `base` is the name that PEFT shows for the base model.
pub fn render(adapter: &Adapter, base: &str) -> String {
    let spec = &adapter.spec;
    let (targets, layers) = placed(adapter);
    let ranks = patterns(adapter, |_, rank, _| (rank != spec.rank).then(|| json!(rank)));
    let alphas = patterns(adapter, |_, rank, scale| {
        let here = LoraSpec { rank, ..spec.clone() };
        (here.scale() != scale).then(|| json!(alpha(scale, &here)))
    });
    // A head outside `modules_to_save` would be ignored by PEFT.
    let saved = adapter.head.as_ref().map(|_| ["score"]);
    let config = json!({
        "peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": base, "inference_mode": true,
        "r": spec.rank, "lora_alpha": spec.alpha, "use_rslora": spec.rslora, "lora_dropout": 0.0, "bias": "none",
        "rank_pattern": ranks, "alpha_pattern": alphas, "target_modules": targets, "layers_to_transform": layers,
        "modules_to_save": saved, "fan_in_fan_out": false, "init_lora_weights": true,
    });
    format!("{config:#}\n")
}

/// `target_modules` and `layers_to_transform`: by projection where each is in the same layers, else every module by name.
fn placed(adapter: &Adapter) -> (Vec<String>, Option<Vec<usize>>) {
    let layers: BTreeSet<usize> = adapter.lora.keys().map(|site| site.layer).collect();
    let projections: BTreeSet<Projection> = adapter.lora.keys().map(|site| site.projection).collect();
    if layers.len() * projections.len() != adapter.lora.len() {
        return (adapter.lora.keys().map(Site::to_string).collect(), None);
    }
    let names = projections.iter().map(|projection| projection.name().to_owned()).collect();
    (names, (layers.len() < adapter.layers).then(|| layers.into_iter().collect()))
}

/// What `differs` says of sites, by projection where it is the same for all of that projection, else by module. No two
/// keys match the same site, so that their order does not matter.
fn patterns(adapter: &Adapter, differs: impl Fn(&Site, usize, f64) -> Option<Value>) -> Map<String, Value> {
    let mut patterns = Map::new();
    for projection in Projection::ALL {
        let sites = adapter.lora.iter().filter(|(site, _)| site.projection == projection);
        let values: Vec<(&Site, Option<Value>)> =
            sites.map(|(site, lora)| (site, differs(site, lora.a.dims()[0], lora.scale))).collect();
        match values.first() {
            Some((_, Some(first))) if values.iter().all(|(_, value)| value.as_ref() == Some(first)) => {
                patterns.insert(projection.name().into(), first.clone());
            }
            _ => patterns
                .extend(values.into_iter().filter_map(|(site, value)| Some((site.to_string(), value?)))),
        }
    }
    patterns
}

/// An alpha that gives exactly this scale: a whole number if one does, else the product or a neighbour of it.
fn alpha(scale: f64, spec: &LoraSpec) -> f64 {
    let product = scale / LoraSpec { alpha: 1.0, ..spec.clone() }.scale();
    let gives = |alpha: &f64| LoraSpec { alpha: *alpha, ..spec.clone() }.scale() == scale;
    let (mut below, mut above) = (product, product);
    let neighbours = (0..4).flat_map(|_| {
        (below, above) = (below.next_down(), above.next_up());
        [below, above]
    });
    [product.round(), product].into_iter().chain(neighbours).find(gives).unwrap_or(product)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{adapter::peft::tests::base, config::Config},
        nn::linear::Lora,
    };
    use candle_core::{DType, Device, Tensor};
    use proptest::prelude::*;
    use std::path::Path;

    fn zeros(site: Site, rank: usize, scale: f64, base: &Config) -> (Site, Lora) {
        let (d_out, d_in) = site.projection.shape(base);
        let zeros = |shape| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        (site, Lora::new(zeros((rank, d_in)), zeros((d_out, rank)), scale))
    }

    /// Saves and loads an adapter, and says what the configuration was.
    fn assert_comes_back(adapter: &Adapter, base: &Config) -> Value {
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path(), "base").unwrap();
        let again = Adapter::load(folder.path(), base).unwrap();
        let shape = |adapter: &Adapter| -> Vec<_> {
            adapter.lora.iter().map(|(site, lora)| (*site, lora.a.dims()[0], lora.scale)).collect()
        };
        assert_eq!(shape(&again), shape(adapter));
        assert_eq!(again.sha256().unwrap(), adapter.sha256().unwrap());
        serde_json::from_slice(&std::fs::read(folder.path().join(super::super::CONFIG)).unwrap()).unwrap()
    }

    #[test]
    fn the_adapters_of_the_reference_come_back_as_they_were() {
        for case in ["llama-0", "llama-1", "llama-2", "llama3-0", "llama3-1"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases").join(case);
            let path = folder.join("base/config.json");
            let base = Config::from_json(&path, &std::fs::read(&path).unwrap()).unwrap();
            let adapter = Adapter::load(&folder.join("adapter"), &base).unwrap();
            let config = assert_comes_back(&adapter, &base);
            if case == "llama-2" {
                assert_eq!(config["rank_pattern"], json!({"v_proj": 8}));
                assert_eq!(config["alpha_pattern"], json!({"v_proj": 4.0}));
                assert_eq!(config["target_modules"], json!(["q_proj", "v_proj"]));
            }
        }
    }

    #[test]
    fn sites_that_are_no_product_are_named_one_by_one() {
        let (base, spec) = (base(), LoraSpec { rank: 2, alpha: 4.0, rslora: false, targets: vec![] });
        let site = |layer, projection| zeros(Site { layer, projection }, 2, 2.0, &base);
        let lora = [site(0, Projection::Q), site(1, Projection::Up)].into_iter().collect();
        let mut adapter = Adapter::plain(spec, lora, None, &base);
        let config = assert_comes_back(&adapter, &base);
        let names = json!(["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]);
        assert_eq!((&config["target_modules"], &config["layers_to_transform"]), (&names, &Value::Null));
        adapter.lora = [site(0, Projection::Q), site(2, Projection::Q)].into_iter().collect();
        let config = assert_comes_back(&adapter, &base);
        assert_eq!(config["layers_to_transform"], json!([0, 2]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_adapter_comes_back_as_it_was(
            sites in prop::collection::btree_map((0..3usize, 0..7usize), (1..6usize, 0.1..40.0f64, 0..3u8), 1..21),
            rank in 1..6usize, alpha in 0.1..40.0f64, rslora: bool,
        ) {
            let (base, spec) = (base(), LoraSpec { rank, alpha, rslora, targets: vec![] });
            let lora = sites.into_iter().map(|((layer, projection), (rank, alpha, own))| {
                let site = Site { layer, projection: Projection::ALL[projection] };
                // A third of the sites have the adapter's rank and alpha, a third a rank, a third both of their own.
                let rank = if own > 0 { rank } else { spec.rank };
                let alpha = if own > 1 { alpha } else { spec.alpha };
                zeros(site, rank, LoraSpec { rank, alpha, ..spec.clone() }.scale(), &base)
            });
            let adapter = Adapter::plain(spec.clone(), lora.collect(), None, &base);
            assert_comes_back(&adapter, &base);
        }
    }
}
