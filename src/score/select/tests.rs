use std::{cell::RefCell, collections::BTreeSet, path::Path};

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::{
    model::{RewardModel, adapter::Adapter, checkpoint::Checkpoint},
    nn::pack::{Packed, unfold::Unfolded},
};

/// A pool whose variances are given: per candidate, per layer, per block of the layer.
#[derive(Debug, Clone, Default)]
struct Given {
    means: Vec<f64>,
    heads: Vec<f64>,
    blocks: Vec<Vec<Vec<f64>>>,
    /// Prior variances.
    priors: Vec<f64>,
    depth: usize,
    /// Candidates that were sent down, in their order.
    sent: RefCell<Vec<usize>>,
}

struct Walk<'a> {
    pool: &'a Given,
    left: Vec<usize>,
    layer: usize,
}

impl Pool for Given {
    fn means(&self) -> &[f64] {
        &self.means
    }

    fn head_variances(&self) -> &[f64] {
        &self.heads
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn descend(&self, candidates: &[usize]) -> Result<Box<dyn Descent + '_>> {
        self.sent.borrow_mut().extend(candidates);
        Ok(Box::new(Walk { pool: self, left: candidates.to_vec(), layer: 0 }))
    }
}

impl Descent for Walk<'_> {
    fn prior_variances(&self) -> Vec<f64> {
        self.left.iter().map(|candidate| self.pool.priors[*candidate]).collect()
    }

    fn layer(&mut self, sums: &mut [f64]) -> Result<()> {
        assert_eq!(sums.len(), self.left.len());
        for (sum, candidate) in sums.iter_mut().zip(&self.left) {
            self.pool.blocks[*candidate][self.layer].iter().for_each(|block| *sum += block);
        }
        self.layer += 1;
        Ok(())
    }

    fn keep(&mut self, positions: &[usize]) -> Result<()> {
        assert!(positions.is_sorted_by(|a, b| a < b) && positions.len() < self.left.len(), "{positions:?}");
        self.left = positions.iter().map(|position| self.left[*position]).collect();
        Ok(())
    }
}

impl Given {
    /// Each candidate: mean, head, and the only block of each layer.
    fn new(candidates: &[(f64, f64, &[f64])]) -> Self {
        let layers = |of: &[f64]| of.iter().map(|v| vec![*v]).collect();
        Self {
            means: candidates.iter().map(|c| c.0).collect(),
            heads: candidates.iter().map(|c| c.1).collect(),
            blocks: candidates.iter().map(|c| layers(c.2)).collect(),
            priors: candidates.iter().map(|c| 2.0 * (c.1 + c.2.iter().sum::<f64>())).collect(),
            depth: candidates.first().map_or(0, |c| c.2.len()),
            sent: RefCell::default(),
        }
    }

    fn complete(&self, i: usize) -> Estimate {
        let sum = self.blocks[i].iter().flatten().fold(self.heads[i], |sum, block| sum + block);
        Estimate::of_variances(self.means[i], sum, self.priors[i])
    }

    /// Every complete estimate, its score, and of the scores the first of the highest.
    fn all(&self, penalty: Penalty) -> (usize, Rated) {
        let rated = (0..self.means.len()).map(|i| {
            let complete = self.complete(i);
            let known = penalty.needs_variance();
            if known { complete } else { Estimate::of_mean(complete.mean) }.rated(penalty).unwrap()
        });
        rated.enumerate().reduce(|best, next| if next.1.score > best.1.score { next } else { best }).unwrap()
    }
}

fn std(k: f64) -> Penalty {
    Penalty::std(k)
}

/// Values from a small set, so that ties are common, or from a range, so that rounding is.
fn value(low: f64) -> impl Strategy<Value = f64> {
    let few: Vec<f64> = [0.0, 0.1, 1.0, 2.0, 4.0].into_iter().filter(|v| *v >= low).collect();
    prop_oneof![3 => prop::sample::select(few), 1 => low..6.0, 1 => 0.0..1e-15]
}

fn pool() -> impl Strategy<Value = Given> {
    (1..18usize, 0..5usize, 0..4usize).prop_flat_map(|(count, depth, blocks)| {
        let layer = prop::collection::vec(value(0.0), blocks);
        let candidate = (value(-4.0), value(0.0), prop::collection::vec(layer, depth), value(0.0));
        prop::collection::vec(candidate, count).prop_map(move |candidates| Given {
            means: candidates.iter().map(|c| c.0).collect(),
            heads: candidates.iter().map(|c| c.1).collect(),
            priors: candidates.iter().map(|c| c.1 + c.2.iter().flatten().sum::<f64>() + c.3).collect(),
            blocks: candidates.into_iter().map(|c| c.2).collect(),
            depth,
            sent: RefCell::default(),
        })
    })
}

fn penalty() -> impl Strategy<Value = Penalty> {
    let k = prop_oneof![prop::sample::select(vec![0.0, 1e-17, 0.5, 1.0, 2.0]), 0.0..10.0];
    (0..6usize, k, prop::sample::select(vec![0.0, 0.5, 1.0]), value(-4.0)).prop_map(
        |(kind, k, threshold, baseline)| match kind {
            0 => Penalty::None,
            1 => Penalty::Std { k, threshold },
            2 => Penalty::Variance { k, threshold },
            3 => Penalty::Contraction { k, spread: 0.9, threshold: threshold / 2.0 },
            4 => Penalty::Shrink { baseline },
            _ => Penalty::Kl { beta: k + 0.1 },
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_winner_is_that_of_the_full_computation(pool in pool(), penalty in penalty()) {
        let Selected { index, rated, work, known } = select(&pool, penalty, 1).unwrap();
        prop_assert_eq!((index, rated), pool.all(penalty));
        prop_assert_eq!(work.of, pool.means.len() * pool.depth);
        prop_assert!(work.layers <= work.of && work.complete * pool.depth <= work.layers);
        prop_assert_eq!(work.complete > 0, penalty.needs_variance());
        prop_assert_eq!(known.iter().filter(|estimate| estimate.variance.is_some()).count(), work.complete);
    }

    #[test]
    fn the_first_places_are_those_of_the_full_computation(pool in pool(), penalty in penalty(), top in 1..6usize) {
        let places = |of: &[Estimate]| {
            let score = |i: usize| of[i].rated(penalty).unwrap().score;
            let complete = |i: &usize| of[*i].variance.is_some() || !penalty.needs_variance();
            let mut places: Vec<usize> = (0..of.len()).filter(complete).collect();
            places.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
            places.truncate(top);
            places
        };
        let all: Vec<Estimate> = (0..pool.means.len()).map(|i| pool.complete(i)).collect();
        let Selected { known, index, .. } = select(&pool, penalty, top).unwrap();
        prop_assert_eq!(places(&known), places(&all));
        prop_assert_eq!(index, places(&all)[0]);
        let complete = all.iter().map(|e| if penalty.needs_variance() { *e } else { Estimate::of_mean(e.mean) });
        let among = Selected::among(complete.collect(), penalty).unwrap();
        prop_assert_eq!(among.index, index);
        for (known, complete) in known.iter().zip(&all) {
            prop_assert_eq!(known.mean, complete.mean);
            prop_assert!(known.variance.is_none() || known == complete);
        }
    }

    #[test]
    fn copies_of_a_candidate_lose_to_the_first(pool in pool(), penalty in penalty(), copies in 2..4usize) {
        let Given { means, heads, blocks, priors, depth, .. } = pool.clone();
        let repeated = Given {
            means: means.repeat(copies),
            heads: heads.repeat(copies),
            blocks: vec![blocks; copies].concat(),
            priors: priors.repeat(copies),
            depth,
            sent: RefCell::default(),
        };
        let (once, more) = (select(&pool, penalty, 1).unwrap(), select(&repeated, penalty, 1).unwrap());
        prop_assert_eq!((once.index, once.rated), (more.index, more.rated));
    }

    #[test]
    fn nobody_goes_down_twice_or_below_what_is_needed(pool in pool(), penalty in penalty()) {
        let selected = select(&pool, penalty, 1).unwrap();
        let sent = pool.sent.borrow();
        prop_assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), sent.len());
        // Every candidate whose head's bound is above the winner's score has to be looked at; only the first wave may
        // be a candidate that is not.
        let bound = |i: usize| penalty.bound(pool.means[i], pool.heads[i]);
        let above = (0..pool.means.len()).filter(|i| bound(*i) > selected.rated.score);
        if penalty.needs_variance() {
            prop_assert!(above.into_iter().all(|i| sent.contains(&i)));
        } else {
            prop_assert!(sent.is_empty());
        }
    }
}

#[test]
fn what_cannot_win_leaves_where_its_bound_falls_below_the_best() {
    let pool = Given::new(&[
        (2.5, 1.0, &[0.0, 0.0, 0.0]),  // 1.5 after the head: stays at the top
        (3.25, 1.0, &[3.0, 9.0, 9.0]), // 1.25 after one layer
        (3.5, 1.0, &[0.0, 3.0, 99.0]), // 1.5 after two
        (4.0, 1.0, &[0.0, 3.0, 0.0]),  // 2: the winner, and the first to go down
        (4.0, 1.0, &[0.0, 3.0, 0.0]),  // the same, but later
    ]);
    let selected = select(&pool, std(1.0), 1).unwrap();
    assert_eq!(*pool.sent.borrow(), [3, 4, 2, 1]);
    assert_eq!((selected.index, selected.rated.score), (3, 2.0));
    assert_eq!(selected.work, Work { complete: 1, layers: 3 + 2 + 2 + 1, of: 15 });
}

#[test]
fn a_first_choice_that_disappoints_is_replaced() {
    let pool = Given::new(&[(1.0, 1.0, &[0.0, 3.0]), (1.25, 1.0, &[0.0, 99.0]), (1.0, 1.0, &[0.0, 0.0])]);
    let selected = select(&pool, std(1.0), 1).unwrap();
    assert_eq!(*pool.sent.borrow(), [1, 0, 2]);
    assert_eq!((selected.index, selected.rated.score), (2, 0.0));
    assert_eq!(selected.work, Work { complete: 3, layers: 6, of: 6 });
}

#[test]
fn a_tie_that_shows_only_at_the_bottom_goes_to_the_lowest_index() {
    // Falling bounds send the last one down first.
    let pool = Given::new(&[(1.0, 1.0, &[3.0, 0.0]), (1.0, 0.5, &[0.5, 3.0]), (1.0, 0.0, &[0.0, 4.0])]);
    assert_eq!(select(&pool, std(1.0), 1).unwrap().index, 0);
    assert_eq!(*pool.sent.borrow(), [2, 1, 0]);
}

#[test]
fn without_a_penalty_the_highest_mean_wins_and_nothing_goes_down() {
    let pool = Given::new(&[(1.0, 0.0, &[1.0]), (2.0, 9.0, &[9.0]), (2.0, 0.0, &[0.0])]);
    for penalty in [std(0.0), Penalty::None] {
        let selected = select(&pool, penalty, 1).unwrap();
        assert_eq!((selected.index, selected.rated.variance), (1, None));
        assert_eq!(selected.work, Work { complete: 0, layers: 0, of: 3 });
    }
}

#[test]
fn what_is_not_a_mean_or_a_variance_is_refused() {
    let nan = f64::NAN;
    let table: [(f64, f64, [f64; 2]); 6] = [
        (nan, 1.0, [0.0, 0.0]),
        (f64::INFINITY, 1.0, [0.0, 0.0]),
        (1.0, nan, [0.0, 0.0]),
        (1.0, -1.0, [2.0, 0.0]),
        (1.0, 1.0, [nan, 0.0]),
        (1.0, 1.0, [0.0, -0.5]),
    ];
    for (mean, head, layers) in table {
        let pool = Given::new(&[(9.0, 0.0, &[1000.0, 0.0]), (mean, head, &layers)]);
        let error = select(&pool, std(1.0), 1).unwrap_err();
        assert!(matches!(error, Error::NotFinite(_)), "{mean} {head} {layers:?}: {error}");
    }
}

#[test]
fn an_empty_pool_and_too_large_a_factor_are_errors() {
    let message = select(&Given::default(), std(1.0), 1).unwrap_err().to_string();
    assert_eq!(message, "no candidates to select from");
    let pool = Given::new(&[(1.0, 4.0, &[]), (2.0, 4.0, &[])]);
    let message = select(&pool, Penalty::variance(1e308), 1).unwrap_err().to_string();
    assert!(message.starts_with("penalty.k: out of range"), "{message}");
}

#[test]
fn of_sequences_that_are_equal_up_to_the_pooled_token_the_first_is_kept() {
    let sequence = |ids: &[u32], pooled| TokenSeq { ids: ids.to_vec(), pooled, truncated: false };
    let [a, b] = [sequence(&[1, 2, 3], 2), sequence(&[1, 2], 1)];
    let [padded_a, padded_b] = [sequence(&[1, 2, 3, 0], 2), sequence(&[1, 2, 3], 1)];
    let Distinct { firsts, kinds } = distinct(&[&b, &a, &padded_a, &padded_b, &a]);
    assert_eq!((firsts, kinds), (vec![0, 1], vec![0, 1, 1, 0, 1]));
    assert_eq!(distinct(&[]), Distinct { firsts: Vec::new(), kinds: Vec::new() });
}

#[test]
fn hidden_states_of_unfolded_candidates_are_rows_of_the_folded_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/llama-0");
    let base = Checkpoint::open(&folder.join("base")).unwrap();
    let adapter = Adapter::load(&folder.join("adapter"), &base.config).unwrap();
    let model = RewardModel::new(&base, Some(&adapter), DType::F64, &Device::Cpu).unwrap();
    let candidates = [&[1, 2, 3, 4, 5][..], &[1, 2, 3, 9], &[1, 2, 3, 7, 7, 8], &[1, 2, 3, 4, 6]];
    let candidates =
        candidates.map(|ids| TokenSeq { ids: ids.to_vec(), pooled: ids.len() - 1, truncated: false });
    // Every token is read.
    let every = |packed: Packed| Packed { pooled: (0..packed.tokens()).collect(), ..packed };
    let folded = Packed::candidates(&candidates.each_ref());
    let Unfolded { packed, rows } = folded.unfold(&[2, 0, 3]);
    assert!(packed.tokens() > rows.iter().collect::<BTreeSet<_>>().len());
    let rows = Tensor::new(rows, &Device::Cpu).unwrap();
    let taken = model.hidden(&every(folded)).unwrap().index_select(&rows, 0).unwrap();
    let apart = model.hidden(&every(packed)).unwrap();
    assert_eq!(taken.dims(), apart.dims());
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (taken, apart) in values(&taken).iter().zip(values(&apart)) {
        assert!((taken - apart).abs() < 1e-9, "{taken} {apart}");
    }
}
