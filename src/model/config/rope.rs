//! Rotary position embedding: base, part that turns, and scaling.

use serde::Deserialize;

/// How fast the pairs of a head's dimensions turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// Numbers of a head that turn, one more where it is odd; the others stay.
    pub size: usize,
    pub scaling: Scaling,
}

/// How the frequencies are changed for contexts longer than those of the pre-training.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum Scaling {
    Default,
    /// Positions are divided by `factor` (Chen et al., 2023).
    Linear {
        factor: f64,
    },
    /// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
    /// Each pair's frequency is divided by a factor of its own, and cos and sin are multiplied by `magnitude`: what GGUF files
    /// hold of scalings.
    #[serde(skip)]
    Factors {
        factors: Vec<f64>,
        magnitude: f64,
    },
}

impl Rope {
    /// All of it as text, from which digests are made.
    pub fn settings(&self) -> String {
        let Self { theta, size, scaling } = self;
        let scaling = match scaling {
            Scaling::Default => String::new(),
            Scaling::Linear { factor } => format!(" linear {factor}"),
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                format!(
                    " llama3 {factor} {low_freq_factor} {high_freq_factor} {original_max_position_embeddings}"
                )
            }
            Scaling::Factors { factors, magnitude } => format!(" factors {factors:?} {magnitude}"),
        };
        format!("{theta} {size}{scaling}")
    }

    pub fn check(&self) -> Result<(), String> {
        if !(self.theta.is_finite() && self.theta > 0.0) {
            return Err(format!("rope_theta: {} is not a positive number", self.theta));
        }
        if self.size == 0 {
            return Err("partial_rotary_factor: nothing of a head turns".into());
        }
        match &self.scaling {
            Scaling::Default => Ok(()),
            Scaling::Linear { factor } if factor.is_finite() && *factor > 0.0 => Ok(()),
            Scaling::Linear { factor } => Err(format!("rope_parameters: factor {factor} is not positive")),
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let all = [factor, low_freq_factor, high_freq_factor, original_max_position_embeddings];
                match all.iter().any(|x| !(x.is_finite() && **x > 0.0)) || low_freq_factor >= high_freq_factor
                {
                    true => Err("rope_parameters: llama3 needs positive numbers, low_freq_factor < \
                                 high_freq_factor"
                        .into()),
                    false => Ok(()),
                }
            }
            Scaling::Factors { factors, .. } if factors.len() != self.pairs() => {
                Err(format!("rope factors: {} for {} pairs", factors.len(), self.pairs()))
            }
            Scaling::Factors { factors, magnitude } => {
                let all_positive = factors.iter().chain([magnitude]).all(|x| x.is_finite() && *x > 0.0);
                all_positive.then_some(()).ok_or_else(|| "rope factors: not all are positive".into())
            }
        }
    }

    /// Numbers of a head that turn, in pairs.
    pub fn turning(&self) -> usize {
        self.pairs().saturating_mul(2)
    }

    /// Pairs that turn.
    pub fn pairs(&self) -> usize {
        self.size.div_ceil(2)
    }

    /// Angle per position of each pair of dimensions, rounded to f32 as Hugging Face does.
    pub fn frequencies(&self) -> Vec<f32> {
        let plain = (0..self.pairs()).map(|i| {
            let exponent = (2 * i) as f32 / self.size as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        plain
            .zip(0..)
            .map(|(frequency, pair)| self.scaling.apply(f64::from(frequency), pair) as f32)
            .collect()
    }

    /// What cos and sin are multiplied by.
    pub fn magnitude(&self) -> f64 {
        match self.scaling {
            Scaling::Factors { magnitude, .. } => magnitude,
            _ => 1.0,
        }
    }
}

impl Scaling {
    fn apply(&self, frequency: f64, pair: usize) -> f64 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                // Turns of the pair within the context of the pre-training.
                let turns = original_max_position_embeddings * frequency / std::f64::consts::TAU;
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
            Self::Factors { factors, .. } => frequency / factors[pair],
        }
    }
}
