//! Bytes to blocks, with a list of everything that is wrong.

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{CURVATURE, FORMAT, Field, LARGEST, LAYOUT, PRIOR_PRECISION, SKETCH_VERSION, VERSION};
use crate::{
    Error, Result, files,
    posterior::{
        Block, FitConfig, Form, Parts, Posterior, Sketch,
        check::Claimed,
        config::{HeldOut, Quantiles},
        fit::Gram,
        sketch::Layout,
    },
};

/// What could be read of a file.
pub struct Contents {
    pub posterior: Posterior,
    pub claimed: Claimed,
    /// Each names a tensor or an entry of the metadata.
    pub problems: Vec<String>,
}

/// Reads a file; an error where it is not a posterior of a known version at all.
pub fn contents(path: &Path) -> Result<Contents> {
    let bytes = files::read(path, LARGEST)?;
    parse(&bytes).map_err(|message| Error::file(path, message))
}

fn parse(bytes: &[u8]) -> Result<Contents, String> {
    let not_safetensors = |e| format!("not a safetensors file, or cut short: {e}");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(not_safetensors)?;
    let file = SafeTensors::deserialize(bytes).map_err(not_safetensors)?;
    let metadata =
        |key: &str| header.metadata().as_ref().and_then(|entries| entries.get(key)).map(String::as_str);
    expect("format", metadata("format"), FORMAT)?;
    let sketched = metadata("version") == Some(SKETCH_VERSION);
    if !sketched {
        expect("version", metadata("version"), VERSION)?;
    }

    let mut problems = Vec::new();
    let config = metadata("config").and_then(|json| {
        let parsed = serde_json::from_str::<FitConfig>(json);
        parsed.map_err(|e| problems.push(format!("metadata `config`: {e}"))).ok()
    });
    let quantiles = config.as_ref().and_then(|config| config.quantiles.as_ref());
    let mut wrong = quantiles.map(Quantiles::problems).unwrap_or_default();
    let held_out = config.as_ref().and_then(|config| config.held_out.as_ref());
    wrong.extend(held_out.map(HeldOut::problems).unwrap_or_default());
    wrong.extend(config.as_ref().and_then(FitConfig::rule_problem));
    problems.extend(wrong.into_iter().map(|problem| format!("metadata `config`: {problem}")));
    let (form, claimed) = match sketched {
        true => sketch(&file, metadata(LAYOUT), &mut problems),
        false => blocks(&file, &mut problems),
    };
    Ok(Contents { posterior: Posterior { form, config }, claimed, problems })
}

/// Version 1: separate blocks.
fn blocks(file: &SafeTensors, problems: &mut Vec<String>) -> (Form, Claimed) {
    let (mut blocks, mut claimed) = (BTreeMap::new(), Claimed::new());
    for (name, tensors) in by_block(file, problems) {
        claimed.insert(name.clone(), shape(&tensors));
        match block(&tensors) {
            Ok(block) => drop(blocks.insert(name, block)),
            Err(wrong) => problems.extend(wrong.into_iter().map(|problem| format!("{name}.{problem}"))),
        }
    }
    (Form::Blocks(blocks), claimed)
}

/// Version 2: all blocks in one sketch.
fn sketch(file: &SafeTensors, layout: Option<&str>, problems: &mut Vec<String>) -> (Form, Claimed) {
    let layout = layout.ok_or_else(|| format!("metadata `{LAYOUT}`: missing")).and_then(|json| {
        serde_json::from_str::<Layout>(json).map_err(|e| format!("metadata `{LAYOUT}`: {e}"))
    });
    let layout = match layout {
        Ok(layout) => layout,
        Err(problem) => {
            problems.push(problem);
            return (Form::Blocks(BTreeMap::new()), Claimed::new());
        }
    };
    let blocks = layout.slots.iter().flat_map(|slot| &slot.blocks);
    let claimed = blocks.map(|(name, shape)| (name.clone(), Some(*shape))).collect();
    let known = [CURVATURE, PRIOR_PRECISION];
    problems.extend(
        file.names().into_iter().filter(|name| !known.contains(name)).map(|n| format!("{n}: unknown tensor")),
    );
    let mut numbers = |name: &str, count: usize| {
        let read = file.tensor(name).map_err(|_| "missing".to_owned());
        let read =
            read.and_then(|view| vector(&view, count)).map_err(|e| problems.push(format!("{name}: {e}")));
        read.ok()
    };
    let m = layout.features();
    let curvature = numbers(CURVATURE, m.saturating_mul(m + 1) / 2);
    let prior_precision = numbers(PRIOR_PRECISION, layout.slots.len());
    if let (Some(curvature), Some(prior_precision), true) = (curvature, prior_precision, problems.is_empty())
    {
        match Gram::from_packed(curvature, m) {
            Some(gram) => match Sketch::new(layout, gram, prior_precision) {
                Ok(sketch) => return (Form::Sketch(sketch), claimed),
                Err(wrong) => problems.extend(wrong),
            },
            None => problems.push(format!("{CURVATURE}: not a triangle of {m} rows")),
        }
    }
    (Form::Blocks(BTreeMap::new()), claimed)
}

/// `count` finite numbers.
fn vector(view: &TensorView, count: usize) -> Result<Vec<f64>, String> {
    if view.shape() != [count] {
        return Err(format!("shape {:?}, expected [{count}]", view.shape()));
    }
    let values: Vec<f64> = match view.dtype() {
        Dtype::F32 => numbers(view.data(), f32::from_le_bytes).into_iter().map(f64::from).collect(),
        Dtype::F64 => numbers(view.data(), f64::from_le_bytes),
        other => return Err(format!("data type {other:?}, expected F32 or F64")),
    };
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("has a non-finite entry: {value}")),
        None => Ok(values),
    }
}

fn expect(key: &str, found: Option<&str>, expected: &str) -> Result<(), String> {
    match found {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(format!("metadata `{key}`: `{found}` is not supported, expected `{expected}`")),
        None => Err(format!("metadata `{key}`: missing, expected `{expected}`")),
    }
}

type Tensors<'a> = BTreeMap<Field, TensorView<'a>>;

/// Sorts the tensors into blocks; names that are no block's are problems.
fn by_block<'a>(file: &SafeTensors<'a>, problems: &mut Vec<String>) -> BTreeMap<String, Tensors<'a>> {
    let mut blocks: BTreeMap<String, Tensors> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (name, tensor) in file.iter() {
        match name.rsplit_once('.').map(|(block, field)| (block, Field::of(field))) {
            Some((block, Some(field))) => drop(blocks.entry(block.into()).or_default().insert(field, tensor)),
            _ => unknown.push(format!("{name}: unknown tensor")),
        }
    }
    unknown.sort();
    problems.append(&mut unknown);
    blocks
}

/// (d_out, d_in) as the bases have it.
fn shape(tensors: &Tensors) -> Option<(usize, usize)> {
    let rows = |field| tensors.get(&field).and_then(|basis: &TensorView| basis.shape().first().copied());
    Some((rows(Field::OutputBasis)?, rows(Field::InputBasis)?))
}

/// Reads a block; the error lists what is wrong, each line beginning with the tensor's name.
fn block(tensors: &Tensors) -> Result<Block, Vec<String>> {
    let mut problems = Vec::new();
    for field in Field::REQUIRED.into_iter().filter(|field| !tensors.contains_key(field)) {
        problems.push(format!("{field}: missing"));
    }
    let mut read = BTreeMap::new();
    for (field, view) in tensors {
        match tensor(view, *field) {
            Ok(tensor) => drop(read.insert(*field, tensor)),
            Err(problem) => problems.push(format!("{field}: {problem}")),
        }
    }
    let tail = read.remove(&Field::Tail);
    let [input_basis, output_basis, curvature, lambda] = Field::REQUIRED.map(|field| read.remove(&field));
    let lambda = lambda.and_then(|lambda| scalar(&lambda).map_err(|e| problems.push(e)).ok());
    match (input_basis, output_basis, curvature, lambda) {
        (Some(input_basis), Some(output_basis), Some(curvature), Some(prior_precision))
            if problems.is_empty() =>
        {
            Block::new(Parts { input_basis, output_basis, curvature, tail, prior_precision })
        }
        _ => Err(problems),
    }
}

fn scalar(lambda: &Tensor) -> Result<f64, String> {
    match lambda.dims() {
        [1] => lambda.get(0).and_then(|lambda| lambda.to_scalar()).map_err(|e| e.to_string()),
        shape => Err(format!("{}: shape {shape:?}, expected [1]", Field::PriorPrecision)),
    }
}

/// Bases in f32, as they are served; the few numbers of the rest in f64.
fn tensor(view: &TensorView, field: Field) -> Result<Tensor, String> {
    let shape = view.shape();
    if shape.contains(&0) {
        return Err(format!("shape {shape:?} is empty"));
    }
    let tensor = match view.dtype() {
        Dtype::F32 => Tensor::from_vec(numbers(view.data(), f32::from_le_bytes), shape, &Device::Cpu),
        Dtype::F64 => Tensor::from_vec(numbers(view.data(), f64::from_le_bytes), shape, &Device::Cpu),
        other => return Err(format!("data type {other:?}, expected F32 or F64")),
    };
    let dtype = match field {
        Field::InputBasis | Field::OutputBasis => DType::F32,
        Field::Curvature | Field::PriorPrecision | Field::Tail => DType::F64,
    };
    tensor.and_then(|tensor| tensor.to_dtype(dtype)).map_err(|e| e.to_string())
}

fn numbers<T, const SIZE: usize>(bytes: &[u8], from: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    chunks.iter().map(|chunk| from(*chunk)).collect()
}
