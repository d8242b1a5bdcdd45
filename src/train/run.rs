//! A whole training run: steps in their planned order, checkpoints, and a clean stop when asked to.

use super::{
    Example, Trainer, by_tokens,
    checkpoint::{Record, Store},
    optim::Schedule,
    plan::Plan,
};
use crate::{Error, Result, evaluate::PairMeasures, model::RewardModel, nn::pack::Packed};
use std::sync::atomic::{AtomicBool, Ordering};

/// A run, ready to start.
pub struct Run<'a> {
    pub trainer: Trainer,
    pub examples: &'a [Example],
    pub plan: Plan,
    pub schedule: Schedule,
    pub store: Store,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Set from outside to stop after the step that is under way.
    pub stop: &'a AtomicBool,
}

/// How a run came to its end.
pub struct Outcome {
    pub model: RewardModel,
    pub records: Vec<Record>,
    /// Whether all planned steps were done.
    pub finished: bool,
}

impl Run<'_> {
    /// Goes on from the store's checkpoint.
    pub fn resume(&mut self) -> Result<Vec<Record>> {
        let saved = self.store.load(&self.trainer.model.blocks()?)?;
        self.trainer.model.assign(&saved.blocks)?;
        self.trainer.optimizer.state = saved.optimizer;
        Ok(saved.records)
    }

    /// Does the steps that follow `records`; `report` hears of all of them after each.
    pub fn execute(mut self, mut records: Vec<Record>, report: &mut dyn FnMut(&[Record])) -> Result<Outcome> {
        let mut tokens = records.last().map_or(0, |record| record.tokens);
        for step in records.len()..self.plan.0.len() {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let batch: Vec<&Example> = self.plan.0[step].iter().map(|i| &self.examples[*i]).collect();
            let rate = self.schedule.at(step);
            let done = self.trainer.step(&batch, rate)?;
            if !done.loss.is_finite() || !done.gradient_norm.is_finite() {
                return Err(Error::NotFinite(format!(
                    "loss of step {} (hint: lower `--learning-rate`)",
                    step + 1
                )));
            }
            tokens += batch.iter().map(|example| example.tokens()).sum::<usize>();
            records.push(Record::new(step + 1, done, rate, tokens));
            report(&records);
            if (step + 1) % self.checkpoint_every == 0 {
                self.save(&records)?;
            }
        }
        self.save(&records)?;
        let finished = records.len() == self.plan.0.len();
        Ok(Outcome { model: self.trainer.model, records, finished })
    }

    fn save(&self, records: &[Record]) -> Result<()> {
        self.store.save(&self.trainer.model.blocks()?, &self.trainer.optimizer.state, records)
    }
}

/// Mean loss of the last steps.
pub fn recent_loss(records: &[Record]) -> f64 {
    let last = &records[records.len().saturating_sub(20)..];
    last.iter().map(|record| record.loss).sum::<f64>() / last.len().max(1) as f64
}

/// f(chosen) - f(rejected) of every example, in their order; `progress` hears of the tokens of each batch.
pub fn differences(
    model: &RewardModel,
    examples: &[&Example],
    budget: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f64>> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|i| examples[*i].tokens());
    let mut differences = Vec::with_capacity(examples.len());
    for run in by_tokens(examples, budget) {
        let packed = Packed::pairs(run.iter().map(|e| (&e.chosen, &e.rejected)));
        differences.extend(model.rewards(&packed)?.chunks_exact(2).map(|r| r[0] - r[1]));
        progress(run.iter().map(|example| example.tokens()).sum());
    }
    let mut sorted = vec![0.0; examples.len()];
    order.into_iter().zip(differences).for_each(|(i, difference)| sorted[i] = difference);
    Ok(sorted)
}

/// Measures of the model on examples; `None` if there are none.
pub fn measure(model: &RewardModel, examples: &[&Example], budget: usize) -> Result<Option<PairMeasures>> {
    Ok(PairMeasures::of(&differences(model, examples, budget, &mut |_| {})?))
}
