//! AdamW (Loshchilov and Hutter, 2019), in PyTorch's order of operations, and the learning rate's schedule.

use crate::Result;
use candle_core::Tensor;
use std::{collections::BTreeMap, f64::consts::PI};

/// Linear warm-up over W steps, then a cosine down to zero at step S.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    pub warm_up: usize,
    pub steps: usize,
}

impl Schedule {
    /// Learning rate of step `t`, counted from 0.
    pub fn at(&self, t: usize) -> f64 {
        if t < self.warm_up {
            return self.peak * (t + 1) as f64 / self.warm_up as f64;
        }
        let done = (t - self.warm_up) as f64 / (self.steps - self.warm_up).max(1) as f64;
        self.peak * 0.5 * (1.0 + (PI * done).cos())
    }
}

#[derive(Debug, Clone)]
pub struct AdamW {
    pub betas: (f64, f64),
    pub epsilon: f64,
    pub weight_decay: f64,
    pub state: State,
}

/// What a checkpoint must keep.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Steps done.
    pub steps: usize,
    /// First and second moments by block name.
    pub first: BTreeMap<String, Tensor>,
    pub second: BTreeMap<String, Tensor>,
}

impl AdamW {
    /// The defaults of PyTorch, with the weight decay given.
    pub fn new(weight_decay: f64) -> Self {
        Self { betas: (0.9, 0.999), epsilon: 1e-8, weight_decay, state: State::default() }
    }

    /// Moves `blocks` against `gradients` times `scale`.
    pub fn step(
        &mut self,
        blocks: &mut BTreeMap<String, Tensor>,
        gradients: &BTreeMap<String, Tensor>,
        scale: f64,
        learning_rate: f64,
    ) -> Result<()> {
        let state = &mut self.state;
        state.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powi(state.steps as i32);
        let (first, second) = (correction(self.betas.0), correction(self.betas.1));
        for (name, gradient) in gradients {
            let Some(block) = blocks.get_mut(name) else { continue };
            let gradient = (gradient * scale)?;
            let m = moment(state.first.get(name), &gradient, self.betas.0)?;
            let v = moment(state.second.get(name), &gradient.sqr()?, self.betas.1)?;
            let denominator = ((v.sqrt()? / second.sqrt())? + self.epsilon)?;
            let kept = (&*block * (1.0 - learning_rate * self.weight_decay))?;
            *block = (kept - ((&m / &denominator)? * (learning_rate / first))?)?;
            state.first.insert(name.clone(), m);
            state.second.insert(name.clone(), v);
        }
        Ok(())
    }
}

/// beta * old + (1 - beta) * new, starting from zero.
fn moment(old: Option<&Tensor>, new: &Tensor, beta: f64) -> Result<Tensor> {
    let new = (new * (1.0 - beta))?;
    match old {
        Some(old) => Ok(((old * beta)? + new)?),
        None => Ok(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_schedule_rises_and_falls() {
        let schedule = Schedule { peak: 1.0, warm_up: 2, steps: 6 };
        let rates: Vec<f64> = (0..6).map(|t| schedule.at(t)).collect();
        assert_eq!(rates[..3], [0.5, 1.0, 1.0]);
        assert!((rates[4] - 0.5).abs() < 1e-12 && rates[5] > 0.0 && rates[5] < 0.2);
    }

    #[test]
    fn the_first_step_moves_by_the_learning_rate() {
        let block = |x: f64| BTreeMap::from([("w".to_owned(), Tensor::new(&[x], &Device::Cpu).unwrap())]);
        let mut blocks = block(1.0);
        AdamW::new(0.1).step(&mut blocks, &block(-3.0), 1.0, 0.01).unwrap();
        let moved: Vec<f64> = blocks["w"].to_vec1().unwrap();
        assert!((moved[0] - (1.0 - 0.01 * 0.1 + 0.01)).abs() < 1e-9);
    }
}
