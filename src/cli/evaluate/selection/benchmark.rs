//! The answers that rules choose from, and the choices once a model has scored them.

use serde::Serialize;

use crate::{
    Result,
    cli::{
        evaluate::family::{Seen, embed},
        pairs::{Encoded, PairArgs},
    },
    data::{Pair, pools::Pool},
    evaluate::selection::{
        RulePairs, ScoredAnswer, ScoredPair, ScoredPrompt, SelectionReport, choose, harm, report,
    },
    item::{Input, Item, Message},
    score::{
        Embed, Estimate,
        penalty::Penalty,
        rule::{Calibration, PenaltyRule},
    },
    shift::{AnswerKind, Answered, inject},
    text::{Reader, TokenSeq},
};

/// An uncertainty by which injected answers are told from good ones.
type Measure = fn(&Seen) -> Option<f64>;

const MEASURES: [(&str, Measure); 5] = [
    ("std", |seen| seen.estimate.variance.map(f64::sqrt)),
    ("std_relative", |seen| seen.uncertainties.relative.map(f64::sqrt)),
    ("prior_variance", |seen| seen.uncertainties.prior),
    ("one_minus_contraction", |seen| seen.estimate.contraction.map(|c| 1.0 - c)),
    ("one_minus_contraction_relative", |seen| seen.uncertainties.contraction_relative.map(|c| 1.0 - c)),
];

/// Settings of the injected answers.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Injection {
    pub seed: u64,
}

/// Prompts with answers to choose from, and preference pairs.
#[derive(Debug, Default)]
pub(in crate::cli) struct Benchmark {
    prompts: Vec<Prompt>,
    pairs: Vec<Prompt>,
    /// Pairs that are scored already.
    known: Vec<Known>,
    /// Answers and pairs that were left out.
    pub too_long: usize,
}

/// A prompt's answers, side by side.
#[derive(Debug, Default)]
struct Prompt {
    key: String,
    /// Source of a pair.
    source: String,
    sequences: Vec<TokenSeq>,
    answers: Vec<ScoredAnswer>,
    good: Option<usize>,
}

/// A pair's prompt, with the estimates of its chosen and its rejected answer.
#[derive(Debug)]
struct Known {
    key: String,
    source: String,
    sides: [Estimate; 2],
}

/// The choices of all rules, measured.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Outcome {
    pub selection: SelectionReport<PenaltyRule, &'static str>,
    pub pairs: Vec<RulePairs<PenaltyRule>>,
    /// Rules that the posterior has no numbers for.
    pub left_out: Vec<PenaltyRule>,
}

impl AsRef<[TokenSeq]> for Prompt {
    fn as_ref(&self) -> &[TokenSeq] {
        &self.sequences
    }
}

impl Benchmark {
    pub(super) fn is_empty(&self) -> bool {
        self.prompts.is_empty() && self.pairs.is_empty() && self.known.is_empty()
    }

    /// Adds the accuracy of pairs.
    pub(in crate::cli) fn add_pairs(&mut self, encoded: &Encoded) {
        self.too_long += encoded.skipped;
        let both = encoded.pairs.iter().zip(&encoded.examples);
        self.pairs.extend(both.map(|(pair, example)| Prompt {
            key: key_of(pair),
            source: pair.source.clone().unwrap_or_default(),
            sequences: vec![example.chosen.clone(), example.rejected.clone()],
            answers: Vec::new(),
            good: Some(0),
        }));
    }

    /// Adds the accuracy of pairs whose chosen and rejected answers are scored already: only rules of single rewards can judge them.
    pub(in crate::cli) fn add_known<'a>(&mut self, pairs: impl Iterator<Item = (&'a Pair, [Estimate; 2])>) {
        let known = |(pair, sides): (&Pair, _)| Known {
            key: key_of(pair),
            source: pair.source.clone().unwrap_or_default(),
            sides,
        };
        self.known.extend(pairs.map(known));
    }

    /// Adds the chosen answers of at most `most` different prompts, each beside injected bad ones.
    pub(in crate::cli) fn add_prompts(
        &mut self,
        pairs: &[&Pair],
        most: usize,
        injection: Injection,
        args: &PairArgs,
        reader: &Reader,
    ) -> Result<()> {
        let mut good: Vec<Answered> = Vec::new();
        for answered in pairs.iter().filter_map(|pair| Answered::chosen(pair)) {
            let is_new = good.iter().all(|other| other.prompt != answered.prompt);
            let fits = |answered: &Answered| args.sequence("chosen", &answered.clone().into(), None, reader);
            if good.len() < most && is_new && fits(&answered)?.is_some() {
                good.push(answered);
            }
        }
        for (answered, injected) in good.iter().zip(inject(&good, injection.seed)) {
            let mut prompt = Prompt::new(text_of(&answered.prompt));
            self.add(&mut prompt, &answered.clone().into(), ScoredAnswer::default(), args, reader)?;
            prompt.good = Some(0);
            self.add_injected(&mut prompt, answered, injected, args, reader)?;
            self.prompts.push(prompt);
        }
        Ok(())
    }

    /// Adds pools, of each the first `most` responses.
    pub(super) fn add_pools(
        &mut self,
        pools: Vec<Pool>,
        most: usize,
        first_is_good: bool,
        injection: Option<Injection>,
        args: &PairArgs,
        reader: &Reader,
    ) -> Result<()> {
        let mut firsts = Vec::new();
        for pool in pools {
            let mut prompt = Prompt::new(String::new());
            for (at, response) in pool.responses.iter().take(most).enumerate() {
                let (asked, response) = (Some(pool.prompt.clone()), Some(response.clone()));
                let input = Item::<String> { prompt: asked, response, ..Item::default() }.parse()?;
                let gold = pool.gold.as_ref().map(|gold| gold[at]);
                let was_there =
                    self.add(&mut prompt, &input, ScoredAnswer { kind: None, gold }, args, reader)?;
                if at == 0 {
                    prompt.key = Answered::of(&input).map(|first| text_of(&first.prompt)).unwrap_or_default();
                    prompt.good = (first_is_good && was_there).then_some(0);
                    firsts.push(Answered::of(&input));
                }
            }
            self.prompts.push(prompt);
        }
        if let (Some(injection), true) = (injection, first_is_good) {
            let good: Option<Vec<Answered>> = firsts.into_iter().collect();
            let good = good.unwrap_or_default();
            let first = self.prompts.len() - good.len();
            for (at, injected) in inject(&good, injection.seed).into_iter().enumerate() {
                if self.prompts[first + at].good.is_none() {
                    continue; // The good answer is too long.
                }
                let mut prompt = std::mem::replace(&mut self.prompts[first + at], Prompt::new(String::new()));
                self.add_injected(&mut prompt, &good[at], injected, args, reader)?;
                self.prompts[first + at] = prompt;
            }
        }
        Ok(())
    }

    fn add_injected(
        &mut self,
        prompt: &mut Prompt,
        good: &Answered,
        injected: [Option<String>; AnswerKind::COUNT],
        args: &PairArgs,
        reader: &Reader,
    ) -> Result<()> {
        for (kind, response) in AnswerKind::ALL.into_iter().zip(injected) {
            let Some(response) = response else { continue };
            let input = Answered { prompt: good.prompt.clone(), response }.into();
            self.add(prompt, &input, ScoredAnswer { kind: Some(kind), gold: None }, args, reader)?;
        }
        Ok(())
    }

    /// Adds an answer, unless it is too long.
    fn add(
        &mut self,
        prompt: &mut Prompt,
        input: &Input,
        answer: ScoredAnswer,
        args: &PairArgs,
        reader: &Reader,
    ) -> Result<bool> {
        let sequence = args.sequence("response", input, None, reader)?;
        self.too_long += usize::from(sequence.is_none());
        let fits = sequence.is_some();
        if let Some(sequence) = sequence {
            prompt.sequences.push(sequence);
            prompt.answers.push(answer);
        }
        Ok(fits)
    }

    /// Scores everything, and measures what each rule chooses; the mean is compared with in any case.
    pub(in crate::cli) fn run(
        &self,
        model: &dyn Embed,
        stored: &Calibration,
        mut given: Vec<PenaltyRule>,
    ) -> Result<Outcome> {
        let mean = PenaltyRule::of(crate::score::penalty::Kind::None);
        given.retain(|rule| *rule != mean);
        let (mut rules, mut left_out) = (Vec::new(), Vec::new());
        for rule in std::iter::once(mean).chain(given) {
            match rule.resolve(stored) {
                Ok(resolved) => rules.push(resolved),
                Err(_) => left_out.push(rule),
            }
        }
        let (seen, of_pairs) = (embed(model, &self.prompts)?, embed(model, &self.pairs)?);
        let labels: Vec<PenaltyRule> = rules.iter().map(|(_, rule)| *rule).collect();
        let prompts: Vec<ScoredPrompt> =
            self.prompts.iter().zip(&seen).map(|(prompt, seen)| prompt.scored(seen, &rules)).collect();
        let pair = |(prompt, seen): (&Prompt, &Vec<Seen>)| ScoredPair {
            key: prompt.key.clone(),
            source: prompt.source.clone(),
            chosen: rules.iter().map(|rule| score(rule, &seen[0])).collect(),
            rejected: rules.iter().map(|rule| score(rule, &seen[1])).collect(),
        };
        let known = |Known { key, source, sides: [chosen, rejected] }: &Known| ScoredPair {
            key: key.clone(),
            source: source.clone(),
            chosen: rules.iter().map(|(penalty, _)| penalty.score(chosen)).collect(),
            rejected: rules.iter().map(|(penalty, _)| penalty.score(rejected)).collect(),
        };
        let pairs = self.pairs.iter().zip(&of_pairs).map(pair);
        let pairs: Vec<ScoredPair> = pairs.chain(self.known.iter().map(known)).collect();
        Ok(Outcome {
            selection: report(&labels, &MEASURES.map(|(name, _)| name), &prompts),
            pairs: if pairs.is_empty() { Vec::new() } else { harm(&labels, &pairs) },
            left_out,
        })
    }
}

impl Prompt {
    fn new(key: String) -> Self {
        Self { key, ..Self::default() }
    }

    fn scored(&self, seen: &[Seen], rules: &[(Penalty, PenaltyRule)]) -> ScoredPrompt {
        ScoredPrompt {
            key: self.key.clone(),
            answers: self.answers.clone(),
            good: self.good,
            scores: rules.iter().map(|rule| seen.iter().map(|seen| score(rule, seen)).collect()).collect(),
            uncertainties: MEASURES.iter().map(|(_, measure)| seen.iter().map(measure).collect()).collect(),
        }
    }
}

fn key_of(pair: &Pair) -> String {
    pair.prompt.as_ref().map_or_else(|| format!("{:?}", pair.chosen), |prompt| text_of(prompt))
}

/// The text of a conversation, by whose hash a prompt belongs to a half: the messages' texts, a line feed between them.
fn text_of(prompt: &[Message]) -> String {
    prompt.iter().map(|message| message.content.text()).collect::<Vec<_>>().join("\n")
}

fn score((penalty, rule): &(Penalty, PenaltyRule), seen: &Seen) -> f64 {
    penalty.score(&if rule.relative { seen.relative() } else { seen.estimate })
}

impl Outcome {
    /// The rule that the choice half recommends, of those that are allowed.
    pub(in crate::cli) fn recommended(&self, allowed: impl Fn(&PenaltyRule) -> bool) -> Option<PenaltyRule> {
        let rules: Vec<_> = self.selection.rules.iter().filter(|of| allowed(&of.rule)).cloned().collect();
        let pairs: Vec<_> = self.pairs.iter().filter(|of| allowed(&of.rule)).cloned().collect();
        choose(&rules, &pairs).map(|at| rules[at].rule)
    }
}
