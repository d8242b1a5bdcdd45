use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::*;
use crate::{
    nn::check::{random, values},
    posterior::BlockKind,
};

const SHAPES: [(&str, (usize, usize)); 5] = [
    ("base_model.model.score", (1, 6)),
    ("base_model.model.model.layers.0.mlp.down_proj.lora_A", (2, 9)),
    ("base_model.model.model.layers.0.mlp.down_proj.lora_B", (6, 2)),
    ("base_model.model.model.layers.1.mlp.down_proj.lora_A", (2, 9)),
    ("base_model.model.model.layers.1.mlp.down_proj.lora_B", (6, 2)),
];
const LAMBDA: [f64; 5] = [30.0, 0.5, 3.0, 0.5, 3.0];
const WEIGHTS: [f64; 4] = [0.25, 0.1, 0.2, 0.05];

fn shapes() -> BTreeMap<String, (usize, usize)> {
    SHAPES.iter().map(|(name, shape)| ((*name).to_owned(), *shape)).collect()
}

/// Gradients of every block, (n, d_out, d_in), in the order of a backward.
fn gradients(seed: u64, n: usize) -> Vec<(&'static str, Tensor)> {
    let order = [0, 3, 4, 1, 2];
    let block = |i: usize| (SHAPES[i].0, random(seed + i as u64, &[n, SHAPES[i].1.0, SHAPES[i].1.1]));
    order.into_iter().map(block).collect()
}

/// W^1/2 D of four pairs.
fn weighted_features(layout: &Layout) -> Tensor {
    let mut features = Features::new(layout);
    gradients(10, 4).iter().for_each(|(name, j)| features.add(name, j).unwrap());
    let roots = Tensor::new(&WEIGHTS.map(|w| w.sqrt() as f32), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    features.finish().unwrap().broadcast_mul(&roots).unwrap()
}

fn fitted(layout: Layout) -> Sketch {
    let mut curvature = Gram::new(layout.features());
    curvature.add(&weighted_features(&layout)).unwrap();
    let prior = layout.slots.iter().map(|slot| lambda_of(slot.kind)).collect();
    Sketch::new(layout, curvature, prior).unwrap()
}

fn lambda_of(kind: BlockKind) -> f64 {
    match kind {
        BlockKind::Head => LAMBDA[0],
        BlockKind::A => LAMBDA[1],
        BlockKind::B => LAMBDA[2],
    }
}

/// The joint covariance in data space, over the gradients of some blocks (maths.md, section 3).
fn exact(blocks: &[&str]) -> Vec<f64> {
    let rows = |seed, n| {
        let whitened =
            gradients(seed, n).into_iter().filter(|(name, _)| blocks.contains(name)).map(|(name, j)| {
                let scale = lambda_of(BlockKind::of(name).unwrap()).sqrt().recip();
                (j.flatten_from(1).unwrap() * scale).unwrap()
            });
        Tensor::cat(&whitened.collect::<Vec<_>>(), 1).unwrap()
    };
    let (d, j) = (rows(10, 4), rows(50, 3));
    let inner = |a: &Tensor, b: &Tensor| a.matmul(&b.t().unwrap()).unwrap();
    // J J^T - J D^T (W^-1 + D D^T)^-1 D J^T, by elimination.
    let (prior, cross) = (values(&inner(&j, &j)), inner(&d, &j).to_vec2::<f64>().unwrap());
    let mut system = inner(&d, &d).to_vec2::<f64>().unwrap();
    (0..4).for_each(|n| system[n][n] += 1.0 / WEIGHTS[n]);
    let solved = solve(system, cross.clone());
    let at = |a: usize, b: usize| prior[3 * a + b] - (0..4).map(|n| cross[n][a] * solved[n][b]).sum::<f64>();
    (0..9).map(|i| at(i / 3, i % 3)).collect()
}

fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    for k in 0..a.len() {
        let pivot = a[k][k];
        a[k].iter_mut().chain(&mut b[k]).for_each(|x| *x /= pivot);
        for i in (0..a.len()).filter(|i| *i != k) {
            let factor = a[i][k];
            let (row_a, row_b) = (a[k].clone(), b[k].clone());
            a[i].iter_mut().zip(row_a).for_each(|(x, y)| *x -= factor * y);
            b[i].iter_mut().zip(row_b).for_each(|(x, y)| *x -= factor * y);
        }
    }
    b
}

/// As many features as entries: the projection is exact.
fn lossless() -> Layout {
    let mut layout = Layout::new(&shapes(), 1 << 12, 2, 7);
    assert_eq!(layout.features(), 6 + 2 * (18 + 12));
    layout.seed = 8;
    layout
}

#[test]
fn with_all_features_the_covariance_is_the_exact_joint_one() {
    let sketch = fitted(lossless());
    let mut walk = sketch.walk(3);
    gradients(50, 3).iter().for_each(|(name, j)| walk.add(name, j).unwrap());
    let y = walk.vectors().unwrap().posterior.to_dtype(DType::F64).unwrap();
    let names: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
    let want = exact(&names);
    for (got, want) in values(&y.matmul(&y.t().unwrap()).unwrap()).iter().zip(&want) {
        assert!((got - want).abs() < 1e-5, "{got}, {want}");
    }
    for (i, variance) in walk.variances().iter().enumerate() {
        assert!((variance - want[4 * i]).abs() < 1e-5);
    }
    // v0 = sum of J^2 / lambda, and the prior's vectors have its covariances.
    let prior = walk.vectors().unwrap().prior.to_dtype(DType::F64).unwrap();
    let prior = values(&prior.matmul(&prior.t().unwrap()).unwrap());
    for (i, v0) in walk.prior_variances().iter().enumerate() {
        let of = |(name, j): &(&str, Tensor)| {
            let lambda = lambda_of(BlockKind::of(name).unwrap());
            values(&j.get(i).unwrap()).iter().map(|x| x * x).sum::<f64>() / lambda
        };
        let want: f64 = gradients(50, 3).iter().map(of).sum();
        assert!((v0 - want).abs() < 1e-5 * want && (prior[4 * i] - want).abs() < 1e-5 * want, "{v0}, {want}");
    }
}

#[test]
fn what_has_been_shown_gives_the_posterior_of_the_blocks_so_far() {
    let sketch = fitted(lossless());
    let mut walk = sketch.walk(3);
    let mut shown: Vec<&str> = Vec::new();
    let mut before = vec![0.0; 3];
    for (name, j) in gradients(50, 3) {
        walk.add(name, &j).unwrap();
        shown.push(name);
        let want = exact(&shown);
        for (i, variance) in walk.variances().iter().enumerate() {
            assert!((variance - want[4 * i]).abs() < 1e-5, "after {name}");
            assert!(*variance >= before[i]);
        }
        before = walk.variances().to_vec();
    }
}

#[test]
fn some_go_on_as_they_would_have_among_all() {
    let sketch = fitted(Layout::new(&shapes(), 24, 1, 7));
    let mut all = sketch.walk(3);
    gradients(50, 3).iter().for_each(|(name, j)| all.add(name, j).unwrap());
    let mut some = sketch.walk(3);
    for (at, (name, j)) in gradients(50, 3).iter().enumerate() {
        let rows = Tensor::new(&[0u32, 2], &Device::Cpu).unwrap();
        if at == 2 {
            some.keep(&[0, 2]).unwrap();
        }
        some.add(name, &if at < 2 { j.clone() } else { j.index_select(&rows, 0).unwrap() }).unwrap();
    }
    for (got, i) in some.variances().iter().zip([0, 2]) {
        assert!((got - all.variances()[i]).abs() < 1e-5);
    }
}

/// |theta - mu|^2 of each slot.
const DISTANCES: [f64; 5] = [0.02, 0.2, 0.1, 0.1, 0.2];

#[test]
fn the_evidence_is_a_stationary_point() {
    let layout = lossless();
    let sketch = fitted(layout.clone());
    let at = |given: &dyn Fn(BlockKind) -> Option<f64>| {
        let groups = Groups::by_kind(&layout, &DISTANCES, given);
        evidence(&layout, &Curvature::Features(sketch.curvature()), -3.0, &groups).unwrap()
    };
    let chosen = at(&|_| None);
    assert!(chosen.at_bound.is_empty());
    let lambda = |kind| {
        let slot = layout.slots.iter().position(|slot| slot.kind == kind).unwrap();
        chosen.prior_precision[slot]
    };
    for kind in BlockKind::ALL {
        let moved = |factor: f64| {
            at(&|other| Some(if other == kind { lambda(other) * factor } else { lambda(other) })).log_evidence
        };
        assert!(moved(1.0) >= moved(1.5) && moved(1.0) >= moved(1.0 / 1.5), "{kind}");
    }
    // log det(I + H / Lambda) in data space: log det(I + W^1/2 D Lambda^-1 D^T W^1/2).
    let effective: f64 = chosen.effective_parameters.iter().sum();
    assert!(effective > 0.0 && effective < 4.0, "at most one parameter a pair: {effective}");
}

/// The matrices over the features and over the pairs have the same eigenvalues, but for ones.
#[test]
fn pairs_have_the_evidence_of_their_features() {
    let layout = lossless();
    let x = weighted_features(&layout);
    let mut h = Gram::new(layout.features());
    h.add(&x).unwrap();
    for (sharing, count) in [(Sharing::All, 1), (Sharing::Kind, 3), (Sharing::Slot, 5)] {
        let groups = Groups::new(&layout, sharing, &DISTANCES);
        assert_eq!(groups.given.len(), count);
        let pairs = Curvature::smaller(&h, &x, &layout, &groups).unwrap();
        assert!(matches!(pairs, Curvature::Pairs(_)));
        let [got, want] =
            [&pairs, &Curvature::Features(&h)].map(|h| evidence(&layout, h, -3.0, &groups).unwrap());
        assert!((got.log_evidence - want.log_evidence).abs() < 1e-6, "{got:?}, {want:?}");
        let both = got.effective_parameters.iter().zip(&want.effective_parameters);
        let both = both.chain(got.prior_precision.iter().zip(&want.prior_precision));
        both.for_each(|(got, want)| assert!((got / want - 1.0).abs() < 1e-4, "{got}, {want}"));
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let layout = lossless();
    let short = Sketch::new(layout.clone(), Gram::new(3), vec![1.0; 5]).unwrap_err();
    assert_eq!(short, ["curvature: of 3 features, the slots have 66"]);
    let m = layout.features();
    let wrong = Sketch::new(layout, Gram::new(m), vec![1.0, 0.0]).unwrap_err();
    assert_eq!(wrong.len(), 2);
    assert!(wrong[1].starts_with("prior_precision: must be finite and positive"), "{wrong:?}");
}
