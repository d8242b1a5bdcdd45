//! A posterior that costs what a fitted one costs, for adapters that have none.
//!
//! A sketch of the size that `fit` gives by default, of no pairs: its products take the time of any other. Its variances are
//! the prior's.

use crate::{
    Error, Result,
    posterior::{Form, Posterior, Sketch, fit::Gram, sketch::Layout},
};
use std::collections::BTreeMap;

/// Features and groups of layers, as `fit` has by default.
const FEATURES: usize = 2048;
const GROUPS: usize = 8;

/// Of all trainable matrices, given by rows and columns.
pub fn stand_in(shapes: &BTreeMap<String, (usize, usize)>) -> Result<Posterior> {
    let layout = Layout::new(shapes, FEATURES, GROUPS, 0);
    let (curvature, prior) = (Gram::new(layout.features()), vec![1.0; layout.slots.len()]);
    let sketch =
        Sketch::new(layout, curvature, prior).map_err(|problems| Error::Internal(problems.join("; ")))?;
    Ok(Posterior { form: Form::Sketch(sketch), config: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_matrix_has_its_place() {
        let names = ["score", "layers.0.q_proj.lora_A", "layers.0.q_proj.lora_B"];
        let shapes = names.map(|name| (format!("base_model.model.{name}"), (2, 40))).into();
        let Form::Sketch(sketch) = stand_in(&shapes).unwrap().form else { panic!("not a sketch") };
        let placed: Vec<&String> = sketch.layout().slots.iter().flat_map(|slot| slot.blocks.keys()).collect();
        assert_eq!(placed.len(), shapes.len());
    }
}
