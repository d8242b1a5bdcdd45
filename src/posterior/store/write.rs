//! Blocks to bytes: a safetensors file whose header is sorted, so that equal posteriors give equal bytes.

use std::{io::Write, path::Path};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::{CURVATURE, FORMAT, Field, LAYOUT, PRIOR_PRECISION, SKETCH_VERSION, VERSION};
use crate::{
    Error, Result,
    model::checkpoint::tensors::replace_with,
    posterior::{Block, Form, Posterior},
};

/// safetensors aligns the tensors' bytes to this.
const ALIGNMENT: usize = 8;

/// Writes a posterior whole or not at all.
pub fn replace(path: &Path, posterior: &Posterior) -> Result<()> {
    let tensors = tensors(posterior)?;
    let header = header(posterior, &tensors).map_err(|e| Error::file(path, e))?;
    replace_with(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(path));
        put(&(header.len() as u64).to_le_bytes())?;
        put(header.as_bytes())?;
        for (_, tensor) in &tensors {
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            put(&values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())?;
        }
        Ok(())
    })
}

/// Every tensor under its name in the file, in f32.
fn tensors(posterior: &Posterior) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    match &posterior.form {
        Form::Blocks(blocks) => {
            for (name, block) in blocks {
                let fields = fields(block)?.into_iter();
                tensors.extend(fields.map(|(field, tensor)| (format!("{name}.{field}"), tensor)));
            }
        }
        Form::Sketch(sketch) => {
            tensors.push((CURVATURE.into(), sketch.curvature().to_tensor()?));
            tensors.push((PRIOR_PRECISION.into(), Tensor::new(sketch.prior_precision(), &Device::Cpu)?));
        }
    }
    tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?))).collect()
}

fn fields(block: &Block) -> Result<Vec<(Field, Tensor)>> {
    let parts = block.parts();
    let mut fields = vec![
        (Field::InputBasis, parts.input_basis.clone()),
        (Field::OutputBasis, parts.output_basis.clone()),
        (Field::Curvature, parts.curvature.clone()),
        (Field::PriorPrecision, Tensor::new(&[parts.prior_precision], &Device::Cpu)?),
    ];
    fields.extend(parts.tail.clone().map(|tail| (Field::Tail, tail)));
    Ok(fields)
}

fn header(posterior: &Posterior, tensors: &[(String, Tensor)]) -> serde_json::Result<String> {
    let mut metadata = Map::new();
    if let Some(config) = &posterior.config {
        metadata.insert("config".into(), serde_json::to_string(config)?.into());
    }
    metadata.insert("format".into(), FORMAT.into());
    match &posterior.form {
        Form::Blocks(_) => metadata.insert("version".into(), VERSION.into()),
        Form::Sketch(sketch) => {
            metadata.insert(LAYOUT.into(), serde_json::to_string(sketch.layout())?.into());
            metadata.insert("version".into(), SKETCH_VERSION.into())
        }
    };
    let mut entries = Map::from_iter([("__metadata__".to_string(), Value::Object(metadata))]);
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + tensor.elem_count() * size_of::<f32>();
        entries.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": tensor.dims(), "data_offsets": [start, end]}),
        );
        start = end;
    }
    let json = Value::Object(entries).to_string();
    let padding = json.len().next_multiple_of(ALIGNMENT) - json.len();
    Ok(json + &" ".repeat(padding))
}
