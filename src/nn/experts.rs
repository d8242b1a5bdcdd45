//! A mixture of experts in place of an MLP (Shazeer et al., 2017): a router sends each token to k of E MLPs and adds up what they
//! make of it.
//!
//! z = W x; the k experts of the largest z are chosen; q = softmax(z) over all E, or over the chosen alone where it is normalised;
//! y = sum q_e f_e(x) over the chosen. The choice itself has no gradient, q has.
//!
//! Rows are put in the order of their experts, so that an expert's products are those of one matrix; a row of the result then finds
//! its k rows again. The backward computes once more what the forward did: k times F numbers of a token are more than all else
//! that a layer keeps.

use super::{
    exact::{exact, exact_type, numbers},
    linear::Linear,
    mlp::Gate,
    product::product,
    rows::gather,
};
use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// The experts of a layer, and what chooses among them.
#[derive(Debug, Clone)]
pub struct Experts {
    /// W, (E, C), never in half precision.
    pub router: Tensor,
    pub experts: Vec<Expert>,
    pub gate: Gate,
    /// k.
    pub chosen: usize,
    /// Whether q is over the chosen alone.
    pub normalised: bool,
}

/// An MLP.
#[derive(Debug, Clone)]
pub struct Expert {
    /// (C) -> (2 F), or (F) without a gate.
    pub gate_up: Linear,
    /// (F) -> (C).
    pub down: Linear,
}

impl Experts {
    /// (R, C) -> (R, C).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let routing = self.route(x)?;
        let rows = gather(x, &routing.rows)?;
        let y = self.each(&routing, |expert, places| {
            let gate_up = expert.gate_up.forward(&of(&rows, &places)?)?;
            exact(&expert.down.forward(&self.gate.forward(&gate_up)?)?)
        })?;
        routing.summed(&Tensor::cat(&y, 0)?.broadcast_mul(&routing.weights)?)?.to_dtype(x.dtype())
    }

    /// Gradient with respect to the input of [`Experts::forward`], given that of its output: (R, C) -> (R, C).
    pub fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let routing = self.route(x)?;
        let (rows, dy) = (gather(x, &routing.rows)?, gather(dy, &routing.rows)?);
        let each = self.each(&routing, |expert, places| {
            let gate_up = expert.gate_up.forward(&of(&rows, &places)?)?;
            let dact = expert.down.backward(&of(&dy, &places)?)?;
            let (dgate_up, act) = self.gate.backward(&gate_up, &dact)?;
            // <dy, f(x)> = <down^T dy, act>
            let dq = (exact(&act)? * exact(&dact)?)?.sum(1)?;
            Ok((exact(&expert.gate_up.backward(&dgate_up)?)?, dq))
        })?;
        let (dx, dq): (Vec<Tensor>, Vec<Tensor>) = each.into_iter().unzip();
        // An expert's gradient is linear in dy, so that q may come last.
        let dx = routing.summed(&Tensor::cat(&dx, 0)?.broadcast_mul(&routing.weights)?)?;
        let dz = routing.logits_gradient(&numbers(&Tensor::cat(&dq, 0)?)?, &self.router)?;
        (dx + product(&dz, &self.router)?)?.to_dtype(x.dtype())
    }

    /// Its linear layers.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.experts.iter().flat_map(|expert| [&expert.gate_up, &expert.down])
    }

    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.experts.iter_mut().flat_map(|expert| [&mut expert.gate_up, &mut expert.down])
    }

    /// Chooses the experts of every row, on the host.
    fn route(&self, x: &Tensor) -> Result<Routing> {
        let logits = numbers(&product(&exact(x)?, &self.router.t()?)?)?;
        let experts = self.experts.len();
        let mut shares = Vec::with_capacity(logits.len());
        let mut chosen = Vec::with_capacity(logits.len() / experts * self.chosen);
        for logits in logits.chunks(experts) {
            let largest = largest(logits, self.chosen);
            shares.extend(softmax(logits, |e| !self.normalised || largest.contains(&e)));
            chosen.extend(largest);
        }
        Routing::new(shares, chosen, self, x)
    }

    /// What `f` makes of each expert that has places, in their order.
    fn each<T>(&self, routing: &Routing, f: impl Fn(&Expert, Range<usize>) -> Result<T>) -> Result<Vec<T>> {
        let (mut start, mut made) = (0, Vec::new());
        for (expert, count) in self.experts.iter().zip(&routing.counts).filter(|(_, count)| **count > 0) {
            made.push(f(expert, start..start + count)?);
            start += count;
        }
        Ok(made)
    }
}

/// The rows at some places.
fn of(rows: &Tensor, places: &Range<usize>) -> Result<Tensor> {
    rows.narrow(0, places.start, places.len())
}

/// Where the rows of a batch go: each k times, as a place in the order of experts.
struct Routing {
    /// q, (R, E); 0 where an expert has no part in it.
    shares: Vec<f64>,
    /// (R, k).
    chosen: Vec<usize>,
    /// Places of each expert.
    counts: Vec<usize>,
    /// The row of each place, (R k).
    rows: Tensor,
    /// q at each place, (R k, 1).
    weights: Tensor,
    /// The places of each row, (R k), and the same for the device.
    places: Vec<usize>,
    places_of_rows: Tensor,
    k: usize,
}

impl Routing {
    fn new(shares: Vec<f64>, chosen: Vec<usize>, of: &Experts, like: &Tensor) -> Result<Self> {
        let (experts, k) = (of.experts.len(), of.chosen);
        let mut order: Vec<usize> = (0..chosen.len()).collect();
        order.sort_by_key(|choice| chosen[*choice]);
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, choice)| places[*choice] = place);
        let mut counts = vec![0; experts];
        chosen.iter().for_each(|expert| counts[*expert] += 1);
        let weights: Vec<f64> = order.iter().map(|c| shares[c / k * experts + chosen[*c]]).collect();
        let indices =
            |all: &mut dyn Iterator<Item = usize>| Tensor::from_iter(all.map(|i| i as u32), like.device());
        Ok(Self {
            rows: indices(&mut order.iter().map(|choice| choice / k))?,
            weights: column(weights, like)?,
            places_of_rows: indices(&mut places.iter().copied())?,
            shares,
            chosen,
            counts,
            places,
            k,
        })
    }

    /// Of each row the sum of its places' rows: (R k, C) -> (R, C).
    fn summed(&self, x: &Tensor) -> Result<Tensor> {
        let (places, width) = x.dims2()?;
        gather(x, &self.places_of_rows)?.reshape((places / self.k, self.k, width))?.sum(1)
    }

    /// dz, (R, E), given dq of each place: dz = q (dq - sum q dq), dq being 0 where an expert was not chosen.
    fn logits_gradient(&self, dq: &[f64], like: &Tensor) -> Result<Tensor> {
        let experts = self.counts.len();
        let mut dz = vec![0.0; self.shares.len()];
        let rows = dz.chunks_mut(experts).zip(self.shares.chunks(experts));
        for (row, (dz, q)) in rows.enumerate() {
            let choices = row * self.k..(row + 1) * self.k;
            for choice in choices {
                dz[self.chosen[choice]] = dq[self.places[choice]];
            }
            let mean: f64 = dz.iter().zip(q).map(|(dq, q)| dq * q).sum();
            dz.iter_mut().zip(q).for_each(|(dz, q)| *dz = q * (*dz - mean));
        }
        column(dz, like)?.reshape(((), experts))
    }
}

/// Numbers as (n, 1), on the device of `like` and in its exact type.
fn column(numbers: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    let count = numbers.len();
    let column = Tensor::from_vec(numbers, (count, 1), &Device::Cpu)?;
    column.to_dtype(exact_type(like.dtype()))?.to_device(like.device())
}

/// Indices of the k largest, the first of equals before the others.
fn largest(numbers: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*b].total_cmp(&numbers[*a]));
    order.truncate(k);
    order
}

/// exp(z) over its sum, of those that take part; 0 for the others.
fn softmax(logits: &[f64], takes_part: impl Fn(usize) -> bool) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let power = |(e, z): (usize, &f64)| if takes_part(e) { (z - top).exp() } else { 0.0 };
    let powers: Vec<f64> = logits.iter().enumerate().map(power).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{
        check::{assert_gradient, random, values},
        linear::Frozen,
        mlp::Activation,
    };

    const HIDDEN: usize = 6;
    const WIDTH: usize = 4;

    /// Five experts, two of which each token sees.
    fn mixture(normalised: bool) -> Experts {
        let linear = |seed, shape: [usize; 2]| {
            Linear::new(vec![(Frozen { weight: random(seed, &shape), bias: None }, None)]).unwrap()
        };
        let expert = |seed| Expert {
            gate_up: linear(seed, [2 * WIDTH, HIDDEN]),
            down: linear(seed + 100, [HIDDEN, WIDTH]),
        };
        let gate = Gate { activation: Activation::Silu, gated: true };
        let experts = (10..15).map(expert).collect();
        Experts { router: (random(1, &[5, HIDDEN]) * 2.0).unwrap(), experts, gate, chosen: 2, normalised }
    }

    /// Token by token, expert by expert, as the formula has it.
    #[test]
    fn forward_equals_the_sum_over_the_chosen() {
        for normalised in [true, false] {
            let (mixture, x) = (mixture(normalised), random(2, &[7, HIDDEN]));
            let got = mixture.forward(&x).unwrap();
            for token in 0..7 {
                let x = x.narrow(0, token, 1).unwrap();
                let z = values(&x.matmul(&mixture.router.t().unwrap()).unwrap());
                let mut order: Vec<usize> = (0..5).collect();
                order.sort_by(|a, b| z[*b].partial_cmp(&z[*a]).unwrap());
                let over = if normalised { &order[..2] } else { &order[..] };
                let sum: f64 = over.iter().map(|e| z[*e].exp()).sum();
                let mut want = vec![0.0; HIDDEN];
                for e in &order[..2] {
                    let Expert { gate_up, down } = &mixture.experts[*e];
                    let y = down.forward(&mixture.gate.forward(&gate_up.forward(&x).unwrap()).unwrap());
                    want.iter_mut().zip(values(&y.unwrap())).for_each(|(w, y)| *w += z[*e].exp() / sum * y);
                }
                let got = values(&got.narrow(0, token, 1).unwrap());
                assert!(
                    got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-12),
                    "{got:?} {want:?}"
                );
            }
        }
    }

    #[test]
    fn backward_equals_finite_differences() {
        for normalised in [true, false] {
            let (mixture, x, dy) = (mixture(normalised), random(3, &[7, HIDDEN]), random(4, &[7, HIDDEN]));
            assert_gradient(&x, &dy, &mixture.backward(&x, &dy).unwrap(), |x| mixture.forward(x));
        }
    }

    #[test]
    fn an_expert_that_nobody_is_sent_to_is_left_out() {
        let (mixture, x) = (mixture(true), random(5, &[1, HIDDEN]));
        assert_eq!(mixture.route(&x).unwrap().counts.iter().sum::<usize>(), 2);
        assert_eq!(mixture.forward(&x).unwrap().dims(), [1, HIDDEN]);
    }

    #[test]
    fn of_equals_the_first_are_chosen() {
        assert_eq!(largest(&[1.0, 3.0, 3.0, 3.0], 2), [1, 2]);
    }
}
