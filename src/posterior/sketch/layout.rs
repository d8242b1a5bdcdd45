//! Which features of a sketch belong to which blocks.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{nn::fold::Fold, posterior::BlockKind};

/// Most features of the reward head, which is exact up to here.
const HEAD_FEATURES: usize = 2048;
/// Most features in all: their matrix is held in f64 while it is decomposed.
const MOST: usize = 1 << 14;

/// Slots of features, in the order in which a backward completes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// What the signs and shifts of all blocks are drawn from.
    pub seed: u64,
    pub slots: Vec<Slot>,
}

/// Blocks of one kind whose projections are added up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub kind: BlockKind,
    pub features: usize,
    /// (d_out, d_in) of each block, by name.
    pub blocks: BTreeMap<String, (usize, usize)>,
}

impl Layout {
    /// Lays out the blocks of an adapter: the head in features of its own, as many as it has entries where that is not too many;
    /// the layers in `groups` from the top, each with a slot for A and one for B, `features` in all.
    pub fn new(shapes: &BTreeMap<String, (usize, usize)>, features: usize, groups: usize, seed: u64) -> Self {
        let mut layers: Vec<usize> = shapes.keys().filter_map(|name| layer(name)).collect();
        layers.sort_unstable_by(|a, b| b.cmp(a));
        layers.dedup();
        let groups = groups.clamp(1, layers.len().max(1));
        let slot_of =
            |layer: usize| layers.iter().position(|l| *l == layer).map(|at| at * groups / layers.len());
        let of = |kind: BlockKind, group: Option<usize>| -> BTreeMap<String, (usize, usize)> {
            let mine =
                |name: &str| BlockKind::of(name) == Some(kind) && layer(name).and_then(slot_of) == group;
            shapes.iter().filter(|(name, _)| mine(name)).map(|(name, shape)| (name.clone(), *shape)).collect()
        };
        let mut slots = Vec::new();
        let mut push = |kind, blocks: BTreeMap<_, _>, most: usize| {
            let entries = blocks.values().map(|(d_out, d_in): &(usize, usize)| *d_out * *d_in).sum::<usize>();
            if entries > 0 {
                slots.push(Slot { kind, features: entries.min(most), blocks });
            }
        };
        push(BlockKind::Head, of(BlockKind::Head, None), HEAD_FEATURES);
        for group in 0..groups {
            for kind in [BlockKind::A, BlockKind::B] {
                push(kind, of(kind, Some(group)), (features / (2 * groups)).max(1));
            }
        }
        Self { seed, slots }
    }

    /// m, the features of all slots.
    pub fn features(&self) -> usize {
        self.slots.iter().map(|slot| slot.features).sum()
    }

    /// The features of each slot.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let range = |slot: &Slot| {
            let start = end;
            end += slot.features;
            start..end
        };
        self.slots.iter().map(range).collect()
    }

    /// A number of each slot as one of each feature.
    pub fn of_features(&self, numbers: &[f64]) -> Vec<f64> {
        let each = self.slots.iter().zip(numbers);
        each.flat_map(|(slot, number)| std::iter::repeat_n(*number, slot.features)).collect()
    }

    /// Every block's slot and projection: the entries of a slot's blocks follow each other, by name.
    pub(super) fn folds(&self) -> HashMap<String, (usize, Fold)> {
        let mut folds = HashMap::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let (key, mut offset) = (self.key(index), 0);
            for (name, (d_out, d_in)) in &slot.blocks {
                folds.insert(name.clone(), (index, Fold { key, features: slot.features, offset }));
                offset += d_out * d_in;
            }
        }
        folds
    }

    /// The key of a slot: the first eight bytes of SHA-256 over the seed and the slot's index, each as eight bytes, little-endian.
    fn key(&self, slot: usize) -> u64 {
        let bytes = [self.seed, slot as u64].map(u64::to_le_bytes);
        let digest = Sha256::digest(bytes.as_flattened());
        digest.iter().take(8).rev().fold(0, |key, byte| key << 8 | u64::from(*byte))
    }

    /// What is wrong with a layout that was read.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let sizes = self.slots.iter().map(|slot| slot.features);
        let features = sizes.fold(0, usize::saturating_add);
        if features > MOST {
            problems.push(format!("layout: {features} features, more than the limit of {MOST}"));
        }
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.features == 0 || slot.blocks.is_empty() {
                problems.push(format!("layout: slot {index} is empty"));
            }
            let other = slot.blocks.keys().find(|name| BlockKind::of(name) != Some(slot.kind));
            problems
                .extend(other.map(|name| format!("layout: slot {index} is of {}, not {name}", slot.kind)));
        }
        let mut names: Vec<&String> = self.slots.iter().flat_map(|slot| slot.blocks.keys()).collect();
        names.sort();
        problems.extend(names.windows(2).filter(|w| w[0] == w[1]).map(|w| format!("layout: {} twice", w[0])));
        problems
    }
}

/// The number of the layer in a block's dotted name.
fn layer(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> BTreeMap<String, (usize, usize)> {
        let mut shapes = BTreeMap::from([("base_model.model.score".to_owned(), (1, 6))]);
        for layer in 0..5 {
            let site = format!("base_model.model.model.layers.{layer}.self_attn.q_proj");
            shapes.insert(format!("{site}.lora_A"), (2, 6));
            shapes.insert(format!("{site}.lora_B"), (6, 2));
        }
        shapes
    }

    #[test]
    fn slots_go_from_the_top_down() {
        let layout = Layout::new(&shapes(), 40, 2, 0);
        let kinds: Vec<BlockKind> = layout.slots.iter().map(|slot| slot.kind).collect();
        assert_eq!(kinds, [BlockKind::Head, BlockKind::A, BlockKind::B, BlockKind::A, BlockKind::B]);
        let features: Vec<usize> = layout.slots.iter().map(|slot| slot.features).collect();
        assert_eq!(features, [6, 10, 10, 10, 10]);
        let first: Vec<usize> = layout.slots[1].blocks.keys().filter_map(|name| layer(name)).collect();
        assert_eq!(first, [2, 3, 4]);
        assert_eq!(layout.ranges()[2], 16..26);
        assert!(layout.problems().is_empty());
        assert_eq!(layout.folds().len(), shapes().len());
    }

    #[test]
    fn a_slot_has_no_more_features_than_entries() {
        let layout = Layout::new(&shapes(), 4000, 1, 0);
        assert_eq!(layout.slots[1].features, 60);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut layout = Layout::new(&shapes(), 40, 2, 0);
        layout.slots[0].features = 0;
        layout.slots[2] = layout.slots[1].clone();
        let problems = layout.problems().join("; ");
        assert!(problems.contains("slot 0 is empty") && problems.contains("lora_A twice"), "{problems}");
    }

    #[test]
    fn keys_depend_on_the_seed_and_the_slot() {
        let (a, b) = (Layout::default(), Layout { seed: 1, slots: Vec::new() });
        // The beginning of SHA-256 over sixteen zero bytes, 374708fff7719dd5.
        assert_eq!(a.key(0), u64::from_le_bytes([0x37, 0x47, 0x08, 0xff, 0xf7, 0x71, 0x9d, 0xd5]));
        assert_ne!(a.key(0), b.key(0));
        assert_ne!(a.key(0), a.key(1));
    }
}
