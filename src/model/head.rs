//! The reward head: one output of a linear layer over the last hidden state, or several weighed into one.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};
use std::fmt;

/// How a head's outputs become a reward.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outputs {
    /// There is one.
    #[default]
    One,
    /// The output of this index.
    Label(usize),
    /// A sum with these weights.
    Weighed(Vec<f64>),
}

/// A head as a checkpoint or an adapter stores it.
#[derive(Debug, Clone)]
pub struct Head {
    /// (K, C)
    pub weight: Tensor,
    /// (K)
    pub bias: Option<Tensor>,
}

impl Head {
    /// The head of a single reward: (1, C), and its bias.
    pub fn reward(&self, outputs: &Outputs) -> Result<(Tensor, f64)> {
        let count = self.weight.dim(0)?;
        let weights = outputs.weights(count).map_err(Error::Usage)?;
        let weights = Tensor::from_vec(weights, (1, count), self.weight.device())?;
        let weight = weights.to_dtype(self.weight.dtype())?.matmul(&self.weight)?;
        let bias = match &self.bias {
            Some(bias) => {
                let each = bias.to_dtype(DType::F64)?.unsqueeze(1)?;
                weights.to_device(bias.device())?.matmul(&each)?.flatten_all()?.to_vec1::<f64>()?[0]
            }
            None => 0.0,
        };
        Ok((weight, bias))
    }
}

impl fmt::Display for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::One => f.write_str("its only output"),
            Self::Label(label) => write!(f, "output {label}"),
            Self::Weighed(weights) => write!(f, "outputs weighed by {weights:?}"),
        }
    }
}

impl Outputs {
    /// A weight for each of `count` outputs.
    fn weights(&self, count: usize) -> Result<Vec<f64>, String> {
        match self {
            Self::One if count == 1 => Ok(vec![1.0]),
            Self::One => {
                let hint = "hint: `--label 0` takes the first, `--label-weights` weighs all of them";
                Err(format!("score: the head has {count} outputs, and a reward is one ({hint})"))
            }
            Self::Label(label) if *label < count => {
                Ok((0..count).map(|i| if i == *label { 1.0 } else { 0.0 }).collect())
            }
            Self::Label(label) => Err(format!("--label: {label} of {count} outputs, which begin at 0")),
            Self::Weighed(weights) if weights.len() == count => Ok(weights.clone()),
            Self::Weighed(weights) => {
                Err(format!("--label-weights: {} numbers for {count} outputs", weights.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn head() -> Head {
        let weight = Tensor::new(&[[1.0, 2.0], [3.0, 5.0]], &Device::Cpu).unwrap();
        Head { weight, bias: Some(Tensor::new(&[0.5, -1.0], &Device::Cpu).unwrap()) }
    }

    fn reward(outputs: &Outputs) -> Result<(Vec<f64>, f64)> {
        let (weight, bias) = head().reward(outputs)?;
        assert_eq!(weight.dims(), [1, 2]);
        Ok((weight.flatten_all()?.to_vec1()?, bias))
    }

    #[test]
    fn one_output_is_chosen_or_all_are_weighed() {
        assert_eq!(reward(&Outputs::Label(1)).unwrap(), (vec![3.0, 5.0], -1.0));
        assert_eq!(reward(&Outputs::Weighed(vec![2.0, -1.0])).unwrap(), (vec![-1.0, -1.0], 2.0));
    }

    #[test]
    fn several_outputs_are_refused_without_a_choice() {
        let message = |outputs| reward(&outputs).unwrap_err().to_string();
        assert!(message(Outputs::One).contains("2 outputs") && message(Outputs::One).contains("--label 0"));
        assert!(message(Outputs::Label(2)).contains("--label: 2 of 2 outputs"));
        assert!(message(Outputs::Weighed(vec![1.0])).contains("1 numbers for 2 outputs"));
    }
}
