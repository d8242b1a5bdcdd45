//! The five tensors of a block as they are stored, and everything that can be wrong with them.

use candle_core::{DType, Tensor};

use crate::Result;

/// Largest |U^T U - I| of a basis that passes as orthonormal.
const ORTHONORMAL: f64 = 1e-3;

/// A block's posterior as `posterior.safetensors` lays it down, not yet checked.
#[derive(Debug, Clone)]
pub struct Parts {
    /// U_i, (d_in, k_in), orthonormal columns.
    pub input_basis: Tensor,
    /// U_o, (d_out, k_out), orthonormal columns.
    pub output_basis: Tensor,
    /// S, (k_out, k_in), not negative, summed over all pairs.
    pub curvature: Tensor,
    /// T, one value per direction of the side that is not truncated; absent it is 0.
    pub tail: Option<Tensor>,
    /// lambda, positive.
    pub prior_precision: f64,
}

impl Parts {
    /// Lists what is wrong, each line beginning with the tensor's name; empty when nothing is.
    pub fn problems(&self) -> Result<Vec<String>> {
        let mut problems = self.shape_problems();
        let mut tensors = vec![
            ("input_basis", &self.input_basis),
            ("output_basis", &self.output_basis),
            ("curvature", &self.curvature),
        ];
        tensors.extend(self.tail.as_ref().map(|tail| ("tail", tail)));
        for (name, tensor) in tensors {
            problems.extend(value_problem(name, tensor)?.map(|problem| format!("{name}: {problem}")));
        }
        let lambda = self.prior_precision;
        if !(lambda.is_finite() && lambda > 0.0) {
            problems.push(format!("prior_precision: must be finite and positive, is {lambda}"));
        }
        Ok(problems)
    }

    fn shape_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let input =
            basis_shape(&self.input_basis).map_err(|e| problems.push(format!("input_basis: {e}"))).ok();
        let output =
            basis_shape(&self.output_basis).map_err(|e| problems.push(format!("output_basis: {e}"))).ok();
        let (Some((d_in, k_in)), Some((d_out, k_out))) = (input, output) else {
            return problems;
        };
        if self.curvature.dims() != [k_out, k_in] {
            let shape = self.curvature.dims();
            problems.push(format!("curvature: shape {shape:?}, expected [{k_out}, {k_in}] (k_out, k_in)"));
        }
        let tail = self.tail.as_ref().map(|tail| tail.dims());
        match (k_in < d_in, k_out < d_out) {
            (true, true) => problems.push("input_basis, output_basis: both sides are truncated".into()),
            (true, false) => problems.extend(tail_problem(tail, k_out)),
            (false, true) => problems.extend(tail_problem(tail, k_in)),
            (false, false) if tail.is_some() => problems.push("tail: given, but no side is truncated".into()),
            (false, false) => {}
        }
        problems
    }
}

fn basis_shape(basis: &Tensor) -> Result<(usize, usize), String> {
    match *basis.dims() {
        [d, k] if 0 < k && k <= d => Ok((d, k)),
        ref shape => Err(format!("shape {shape:?}, expected a matrix of at most as many columns as rows")),
    }
}

fn tail_problem(tail: Option<&[usize]>, directions: usize) -> Option<String> {
    let shape = tail.filter(|shape| *shape != [directions])?;
    Some(format!("tail: shape {shape:?}, expected [{directions}]"))
}

fn value_problem(name: &str, tensor: &Tensor) -> Result<Option<String>> {
    if tensor.elem_count() == 0 {
        return Ok(Some("is empty".into()));
    }
    let values: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Ok(Some(format!("has a non-finite entry: {value}")));
    }
    if matches!(name, "curvature" | "tail") {
        let negative = values.iter().find(|value| **value < 0.0);
        return Ok(negative.map(|value| format!("has a negative entry: {value}")));
    }
    if basis_shape(tensor).is_err() {
        return Ok(None); // reported with the shapes
    }
    let deviation = orthonormality(tensor)?;
    let wrong = deviation.is_nan() || deviation > ORTHONORMAL;
    Ok(wrong.then(|| format!("columns are not orthonormal, U^T U differs from I by {deviation:.2e}")))
}

/// Largest |U^T U - I|.
fn orthonormality(basis: &Tensor) -> Result<f64> {
    let identity = Tensor::eye(basis.dim(1)?, basis.dtype(), basis.device())?;
    let deviation = (basis.t()?.matmul(basis)? - identity)?.abs()?.max_all()?;
    Ok(deviation.to_dtype(DType::F64)?.to_scalar()?)
}
