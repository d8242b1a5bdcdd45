//! What each choice of prior precisions, likelihood and temperature does to pairs that were not fitted to.
//!
//! The features of all pairs are computed once, those to fit to and those held out; every choice is then linear algebra on
//! them. What is chosen by the held-out pairs themselves (a factor, a temperature) is chosen on every second one and judged on
//! the others, and the other way round: nothing is judged on pairs that it was chosen by.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

use crate::{
    Error, Result,
    evaluate::{
        PairMeasures,
        auroc::Auroc,
        pairs::{mackay, right},
    },
    fit::{
        self, Size,
        sketched::{Sketched, Sums},
    },
    model::RewardModel,
    posterior::{
        BlockKind, Sketch,
        fit::Gram,
        sketch::{Curvature, Evidence, Groups, Layout, Sharing, evidence},
    },
    train::{Example, by_tokens, loss::softplus},
};

/// What is compared.
#[derive(Debug)]
pub struct Choices<'a> {
    pub model: &'a RewardModel,
    /// Pairs to fit to, and pairs to judge by.
    pub pairs: &'a [Example],
    pub held_out: &'a [Example],
    /// Where A started, by block name: the prior's means; zero where absent.
    pub mean: &'a BTreeMap<String, Tensor>,
    pub size: Size,
    /// Shares of wrong labels that are tried.
    pub label_noise: &'a [f64],
}

/// One choice, and what it does.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub choice: String,
    /// What the held-out pairs chose: the even ones for the odd ones, and the other way round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validated: Option<[f64; 2]>,
    /// Smallest and largest lambda of each kind of block.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prior_precision: BTreeMap<BlockKind, [f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_parameters: Option<f64>,
    /// log Z of the pairs fitted to, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_evidence: Option<f64>,
    /// Mean standard deviation of a held-out pair's difference.
    pub difference_std: f64,
    /// Of the posterior predictive on the held-out pairs.
    #[serde(flatten)]
    pub measures: Option<PairMeasures>,
    /// Held-out pairs that the mean gets wrong against those it gets right, by the standard deviation of the difference.
    pub wrong_found: Option<Auroc>,
}

/// A variance of each held-out pair's difference, and what gave it.
struct Candidate {
    value: f64,
    /// What the means are multiplied by.
    scale: f64,
    variances: Vec<f64>,
}

/// Pairs in the space of the features.
struct Space<'a> {
    layout: Layout,
    fitted: Sketched,
    /// phi of the held-out differences, (R, m), and the differences themselves.
    features: Tensor,
    logits: Vec<f64>,
    of: &'a Choices<'a>,
}

impl Choices<'_> {
    /// Tokens of all passes.
    pub fn tokens(&self) -> usize {
        self.pairs.iter().chain(self.held_out).map(Example::tokens).sum()
    }

    /// Compares all choices; `progress` hears of the tokens of each batch ([`Choices::tokens`] in all).
    pub fn run(&self, progress: &mut dyn FnMut(usize)) -> Result<Vec<Row>> {
        let Size { features, groups, seed } = self.size;
        let layout = Layout::new(&self.model.shapes(), features, groups, seed);
        let fitted = self.sketched(&layout, self.pairs, progress)?;
        let held_out = self.sketched(&layout, self.held_out, progress)?;
        let features = held_out.features()?;
        Space { layout, fitted, features, logits: held_out.differences, of: self }.rows()
    }

    fn sketched(
        &self,
        layout: &Layout,
        examples: &[Example],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Sketched> {
        let all: Vec<&Example> = examples.iter().collect();
        let mut sketched = Sketched::default();
        for batch in by_tokens(&all, self.model.tokens_kept()) {
            sketched.add(self.model, layout, &batch)?;
            progress(batch.iter().map(|example| example.tokens()).sum());
        }
        Ok(sketched)
    }
}

impl Space<'_> {
    fn rows(&self) -> Result<Vec<Row>> {
        let nothing = vec![0.0; self.logits.len()];
        let scaled = |value: f64| Candidate { value, scale: value, variances: nothing.clone() };
        let mut rows = vec![
            self.row("point estimate", 1.0, &nothing),
            self.validated("point estimate times a factor by validation", grid(-1.0, 1.0).map(scaled)),
        ];
        let sums = self.fitted.sums(&self.layout, 0.0)?;
        let by_kind = |name: &str, mean: &BTreeMap<_, _>, sums: &Sums| {
            self.by_evidence(name, Sharing::Kind, mean, sums)
        };
        let (row, evidence) = by_kind("evidence, one for each kind of block", self.of.mean, &sums)?;
        rows.push(row);
        for (name, sharing) in [
            ("evidence, one for all", Sharing::All),
            ("evidence, one for each kind and group of layers", Sharing::Slot),
        ] {
            rows.push(self.by_evidence(name, sharing, self.of.mean, &sums)?.0);
        }
        if !self.of.mean.is_empty() {
            let zero = BTreeMap::new();
            rows.push(by_kind("evidence for each kind, A around zero", &zero, &sums)?.0);
        }
        for noise in self.of.label_noise {
            let name = format!("evidence for each kind, {} % of the labels wrong", 100.0 * noise);
            let sums = self.fitted.sums(&self.layout, *noise)?;
            rows.push(by_kind(&name, self.of.mean, &sums)?.0);
        }
        rows.extend(self.by_validation(&sums.curvature, &evidence)?);
        Ok(rows)
    }

    /// What validation chooses around the evidence's choice, and without it.
    fn by_validation(&self, h: &Gram, evidence: &Evidence) -> Result<[Row; 3]> {
        let lambda = &evidence.prior_precision;
        let under = |value: f64, lambda: Vec<f64>| {
            Ok::<_, Error>(Candidate { value, scale: 1.0, variances: self.variances(h, lambda)? })
        };
        let factors = grid(-2.0, 2.0).map(|f| under(f, lambda.iter().map(|l| l * f).collect()));
        let factors = factors.collect::<Result<Vec<_>>>()?;
        let single = grid(0.0, 4.0).map(|l| under(l, vec![l; lambda.len()])).collect::<Result<Vec<_>>>()?;
        let at_one = self.variances(h, lambda.clone())?;
        let warm =
            |t: f64| Candidate { value: t, scale: 1.0, variances: at_one.iter().map(|v| v * t).collect() };
        Ok([
            self.validated("those of the evidence times a factor by validation", factors.into_iter()),
            self.validated("one for all by validation", single.into_iter()),
            self.validated(
                "those of the evidence, variances times a temperature by validation",
                grid(-2.0, 2.0).map(warm),
            ),
        ])
    }

    fn by_evidence(
        &self,
        name: &str,
        sharing: Sharing,
        mean: &BTreeMap<String, Tensor>,
        sums: &Sums,
    ) -> Result<(Row, Evidence)> {
        let distances = fit::squared_distances(self.of.model, &self.layout, mean)?;
        let groups = Groups::new(&self.layout, sharing, &distances);
        let h = Curvature::smaller(&sums.curvature, &sums.weighted, &self.layout, &groups)?;
        let found = evidence(&self.layout, &h, sums.log_likelihood, &groups)?;
        let variances = self.variances(&sums.curvature, found.prior_precision.clone())?;
        let mut prior_precision: BTreeMap<BlockKind, [f64; 2]> = BTreeMap::new();
        for (slot, lambda) in self.layout.slots.iter().zip(&found.prior_precision) {
            let [low, high] = prior_precision.entry(slot.kind).or_insert([*lambda; 2]);
            (*low, *high) = (low.min(*lambda), high.max(*lambda));
        }
        let row = Row {
            prior_precision,
            effective_parameters: Some(found.effective_parameters.iter().sum()),
            log_evidence: Some(found.log_evidence),
            ..self.row(name, 1.0, &variances)
        };
        Ok((row, found))
    }

    fn variances(&self, h: &Gram, prior_precision: Vec<f64>) -> Result<Vec<f64>> {
        let sketch = Sketch::new(self.layout.clone(), h.clone(), prior_precision)
            .map_err(|problems| Error::Internal(problems.join("; ")))?;
        sketch.variances(&self.features)
    }

    fn row(&self, choice: &str, scale: f64, variances: &[f64]) -> Row {
        self.judged(choice, &self.predictive(scale, variances), variances)
    }

    /// The row of the best candidate on either half of the pairs, judged on the other.
    fn validated(&self, choice: &str, candidates: impl Iterator<Item = Candidate>) -> Row {
        let candidates: Vec<(Candidate, Vec<f64>)> = candidates
            .map(|c| {
                let logits = self.predictive(c.scale, &c.variances);
                (c, logits)
            })
            .collect();
        let loss = |logits: &[f64], half: usize| -> f64 {
            logits.iter().skip(half).step_by(2).map(|logit| softplus(-logit)).sum()
        };
        let best = |half: usize| {
            let by_loss = |a: &&(Candidate, Vec<f64>), b: &&(Candidate, Vec<f64>)| {
                loss(&a.1, half).total_cmp(&loss(&b.1, half))
            };
            candidates.iter().min_by(by_loss)
        };
        // Pair i, of half i % 2, is judged by what the other half chose.
        let (Some(even), Some(odd)) = (best(1), best(0)) else { return self.row(choice, 1.0, &[]) };
        let of = |i: usize| if i.is_multiple_of(2) { even } else { odd };
        let take = |values: fn(&(Candidate, Vec<f64>)) -> &Vec<f64>| -> Vec<f64> {
            (0..self.logits.len()).map(|i| values(of(i))[i]).collect()
        };
        let row =
            self.judged(choice, &take(|(_, logits)| logits), &take(|(candidate, _)| &candidate.variances));
        Row { validated: Some([odd.0.value, even.0.value]), ..row }
    }

    fn predictive(&self, scale: f64, variances: &[f64]) -> Vec<f64> {
        self.logits.iter().zip(variances).map(|(logit, v)| mackay(scale * logit, *v)).collect()
    }

    fn judged(&self, choice: &str, predictive: &[f64], variances: &[f64]) -> Row {
        let stds: Vec<f64> = variances.iter().map(|v| v.sqrt()).collect();
        let those = |wanted: f64| -> Vec<f64> {
            let both = stds.iter().zip(&self.logits).filter(|(_, logit)| right(**logit) == wanted);
            both.map(|(std, _)| *std).collect()
        };
        let varies = stds.iter().any(|std| *std > 0.0);
        Row {
            choice: choice.into(),
            validated: None,
            prior_precision: BTreeMap::new(),
            effective_parameters: None,
            log_evidence: None,
            difference_std: stds.iter().sum::<f64>() / stds.len().max(1) as f64,
            measures: PairMeasures::of(predictive),
            wrong_found: if varies { Auroc::of(&those(0.0), &those(1.0)) } else { None },
        }
    }
}

/// Powers of ten, four to a decade.
fn grid(from: f64, to: f64) -> impl Iterator<Item = f64> {
    let steps = (4.0 * (to - from)).round() as usize;
    (0..=steps).map(move |step| 10f64.powf(from + step as f64 / 4.0))
}
