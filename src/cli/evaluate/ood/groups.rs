//! What is compared, in two ways: by group for the report, and by family for the model.

use crate::{
    Error, Result,
    cli::evaluate::family::Seen,
    data::{Pair, pairs::Place},
    evaluate::ood::Uncertainties,
    item::Input,
    shift::{Answered, Shift},
    text::TokenSeq,
    train::Example,
};

/// Groups of items, which are in families.
#[derive(Debug, Default)]
pub struct Groups {
    named: Vec<Named>,
    pub families: Vec<Family>,
}

#[derive(Debug)]
struct Named {
    name: String,
    too_long: usize,
}

impl Named {
    fn empty(&self) -> Items<'_> {
        Items { name: &self.name, uncertainties: Vec::new(), too_long: self.too_long, truncated: 0 }
    }
}

/// Answers to one prompt, the good one first, side by side with their groups; or an item that is compared with nothing.
#[derive(Debug)]
pub struct Family {
    groups: Vec<usize>,
    sequences: Vec<TokenSeq>,
}

/// A group with what the posterior says of its items.
#[derive(Debug)]
pub struct Items<'a> {
    pub name: &'a str,
    pub uncertainties: Vec<Uncertainties>,
    /// Left out, and cut.
    pub too_long: usize,
    pub truncated: usize,
}

impl AsRef<[TokenSeq]> for Family {
    fn as_ref(&self) -> &[TokenSeq] {
        &self.sequences
    }
}

impl Groups {
    /// Adds pairs as two groups: the rejected answers, compared with the chosen ones, and the chosen ones.
    pub fn add_pairs(
        &mut self,
        rejected: &str,
        chosen: &str,
        pairs: Vec<Example>,
        too_long: usize,
    ) -> Result<()> {
        let rejected = self.add(rejected, too_long)?;
        let chosen = self.add(chosen, too_long)?;
        self.families.extend(pairs.into_iter().map(|pair| Family {
            groups: vec![chosen, rejected],
            sequences: vec![pair.chosen, pair.rejected],
        }));
        Ok(())
    }

    /// Adds a shift of the chosen answers of `pairs`, which were added first: each is compared with the answer that it is made of,
    /// and one to another prompt with nothing.
    pub fn add_shifted(
        &mut self,
        shift: Shift,
        pairs: &[Pair],
        seed: u64,
        encode: impl Fn(&Input, Option<&Place>) -> Result<Option<TokenSeq>>,
    ) -> Result<()> {
        let group = self.add(shift.name(), 0)?;
        let numbered = |(at, pair)| Some((at, Answered::chosen(pair)?));
        let (places, answers): (Vec<usize>, Vec<Answered>) =
            pairs.iter().enumerate().filter_map(numbered).unzip();
        // They come in the order of the answers, of which some may have been left out.
        let mut origins = places.into_iter().zip(&answers);
        for shifted in shift.apply(&answers, seed) {
            let origin = origins.find(|(_, answer)| answer.prompt == shifted.prompt).map(|(at, _)| at);
            let place = origin.and_then(|at| pairs[at].place.as_ref());
            match encode(&shifted.into(), place)? {
                Some(sequence) => self.join(origin, group, sequence),
                None => self.named[group].too_long += 1,
            }
        }
        Ok(())
    }

    /// The items by group, of what was seen of each family.
    pub fn items(&self, seen: &[Vec<Seen>]) -> Vec<Items<'_>> {
        let mut items: Vec<Items> = self.named.iter().map(Named::empty).collect();
        for (family, seen) in self.families.iter().zip(seen) {
            for ((group, sequence), seen) in family.groups.iter().zip(&family.sequences).zip(seen) {
                items[*group].uncertainties.push(seen.uncertainties);
                items[*group].truncated += usize::from(sequence.truncated);
            }
        }
        items
    }

    fn add(&mut self, name: &str, too_long: usize) -> Result<usize> {
        if self.named.iter().any(|group| group.name == name) {
            let hint = "hint: `--shifted NAME=FILE` gives it another";
            return Err(Error::Usage(format!("--shifted: two groups have the name `{name}` ({hint})")));
        }
        self.named.push(Named { name: name.into(), too_long });
        Ok(self.named.len() - 1)
    }

    fn join(&mut self, family: Option<usize>, group: usize, sequence: TokenSeq) {
        match family {
            Some(at) => {
                self.families[at].groups.push(group);
                self.families[at].sequences.push(sequence);
            }
            None => self.families.push(Family { groups: vec![group], sequences: vec![sequence] }),
        }
    }
}
