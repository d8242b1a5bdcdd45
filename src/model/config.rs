//! The shape of a decoder: what a checkpoint's configuration says, parsed once, so that nothing after it can be wrong.
//!
//! Families differ in data alone: where norms act and of which kind, what the attention sees, which numbers turn, the MLP's
//! activation, biases, names. One decoder ([`super::RewardModel`]) computes all of them.

use super::site::Site;
use crate::{
    Error, Result,
    nn::{
        attention::{Attention, Heads, Order},
        mlp::Gate,
    },
};
use serde_json::Value;
use std::path::Path;

pub mod names;
mod raw;
pub mod rope;

use names::{ExpertNames, Names};
use rope::Rope;

/// Largest number that a configuration may give for a size; a guard against overflow.
const LARGEST: usize = 1 << 24;
/// Most layers; the deepest models have a few hundred.
pub const MOST_LAYERS: usize = 1 << 12;

/// A decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `model_type`.
    pub family: String,
    pub vocab_size: usize,
    /// C.
    pub hidden_size: usize,
    /// F, of one expert where there are several.
    pub intermediate_size: usize,
    pub mixture: Option<Mixture>,
    pub layers: usize,
    /// H.
    pub heads: usize,
    /// G.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_length: usize,
    pub pad_token_id: Option<u32>,
    pub names: &'static Names,
    pub norm: NormKind,
    pub norm_eps: f64,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// How the heads of a token lie.
    pub order: Order,
    /// What products of queries and keys are multiplied by.
    pub attention_scale: f64,
    /// Bound of the attention's scores.
    pub attention_cap: Option<f64>,
    /// The rotary embeddings that layers use, and what each layer sees.
    pub ropes: Vec<Rope>,
    pub sights: Vec<Sight>,
    pub gate: Gate,
    pub biases: Biases,
    /// Whether attention and MLP both read the layer's input, and add up.
    pub parallel: bool,
    /// What token embeddings are multiplied by.
    pub embedding_scale: f64,
}

/// Of what kind the norms are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square times w.
    Rms,
    /// Root mean square times 1 + w.
    RmsFromOne,
    /// Centred, with a bias.
    Layer,
}

/// Over what queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself.
    Head,
    /// All heads of a token together.
    Token,
}

/// What a layer's attention reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Most keys that a query sees.
    pub window: Option<usize>,
    /// Index of its rotary embedding.
    pub rope: usize,
}

/// Experts in place of every layer's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    pub names: &'static ExpertNames,
    /// E.
    pub experts: usize,
    /// k.
    pub chosen: usize,
    /// Whether the weights of the chosen add up to 1.
    pub normalised: bool,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Biases {
    pub qkv: bool,
    pub o: bool,
    pub mlp: bool,
}

impl Config {
    /// Parses the `config.json` of a Hugging Face checkpoint, of transformers 4 or 5.
    pub fn from_json(path: &Path, json: &[u8]) -> Result<Self> {
        let config = raw::parse(json).map_err(|e| Error::file(path, e))?;
        config.check().map_err(|e| Error::file(path, e))?;
        Ok(config)
    }

    /// The configuration whose `config.json` has these fields, not checked.
    pub fn from_fields(fields: &Value) -> Result<Self, String> {
        raw::parse(fields.to_string().as_bytes())
    }

    /// Refuses sizes that no model can have.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_experts", self.mixture.map_or(1, |mixture| mixture.experts)),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_length),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
            return Err(format!("{name}: {size} is not between 1 and {LARGEST}"));
        }
        if let Some(Mixture { experts, chosen, .. }) = self.mixture
            && !(1..=experts).contains(&chosen)
        {
            return Err(format!("num_experts_per_tok: {chosen} is not between 1 and {experts}"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, groups) = (self.heads, self.kv_heads);
            return Err(format!("num_key_value_heads: {groups} does not divide num_attention_heads {heads}"));
        }
        let positive = [
            ("rms_norm_eps", self.norm_eps),
            ("query_pre_attn_scalar", self.attention_scale),
            ("attn_logit_softcapping", self.attention_cap.unwrap_or(1.0)),
        ];
        if let Some((name, x)) = positive.iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            return Err(format!("{name}: {x} is not a positive number"));
        }
        if self.sights.iter().any(|sight| sight.window == Some(0)) {
            return Err("sliding_window: 0 is not a number of tokens".into());
        }
        if let Some(rope) = self.ropes.iter().find(|rope| rope.turning() > self.head_dim) {
            let (turning, all) = (rope.turning(), self.head_dim);
            return Err(format!("head_dim: {turning} numbers of {all} turn, in pairs"));
        }
        self.ropes.iter().try_for_each(Rope::check)
    }

    /// Whatever of this decides the numbers of a forward pass, as text: digests are made of it, so that what is written here must
    /// not change with the program.
    pub fn settings(&self) -> String {
        let Self { family, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, .. } = self;
        let Self { norm, norm_eps, qk_norm, order, attention_scale, attention_cap, .. } = self;
        let Self { ropes, sights, gate, biases, parallel, embedding_scale, .. } = self;
        let experts =
            self.mixture.map(|Mixture { experts, chosen, normalised, .. }| (experts, chosen, normalised));
        let ropes: Vec<String> = ropes.iter().map(Rope::settings).collect();
        let sights: Vec<_> = sights.iter().map(|sight| (sight.window, sight.rope)).collect();
        let Biases { qkv, o, mlp } = biases;
        format!(
            "{family} {hidden_size} {intermediate_size} {layers} {heads} {kv_heads} {head_dim} experts {experts:?} norm {norm:?} \
             {norm_eps} {qk_norm:?} attention {order:?} {attention_scale} {attention_cap:?} ropes {ropes:?} sights {sights:?} \
             gate {gate:?} biases {qkv} {o} {mlp} parallel {parallel} embedding {embedding_scale}"
        )
    }

    /// What a layer's attention does.
    pub fn attention(&self, layer: usize) -> Attention {
        let heads =
            Heads { heads: self.heads, groups: self.kv_heads, size: self.head_dim, order: self.order };
        let window = self.sights[layer].window;
        Attention { heads, scale: self.attention_scale, cap: self.attention_cap, window }
    }

    /// Rows of the queries, and of the keys or the values.
    pub fn head_rows(&self) -> (usize, usize) {
        (self.heads * self.head_dim, self.kv_heads * self.head_dim)
    }

    /// Numbers of each norm of queries and keys.
    pub fn qk_norm_sizes(&self) -> Option<[usize; 2]> {
        let (queries, keys) = self.head_rows();
        self.qk_norm.map(|over| match over {
            QkNorm::Head => [self.head_dim; 2],
            QkNorm::Token => [queries, keys],
        })
    }

    /// Name and shape of every tensor that a checkpoint must hold, in Hugging Face's names; the head apart.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (names, hidden) = (self.names, self.hidden_size);
        let mut all = vec![(names.embedding.to_owned(), vec![self.vocab_size, hidden])];
        let norm = |name: String, size: usize| {
            let mut tensors = vec![(format!("{name}.weight"), vec![size])];
            if self.norm == NormKind::Layer {
                tensors.push((format!("{name}.bias"), vec![size]));
            }
            tensors
        };
        all.extend(norm(names.norm.to_owned(), hidden));
        for layer in 0..self.layers {
            let of_layer = format!("{}.{layer}", names.layers);
            let norms = &names.norms;
            let places = [norms.attention_in, norms.attention_out, norms.mlp_in, norms.mlp_out];
            for name in places.into_iter().flatten() {
                all.extend(norm(format!("{of_layer}.{name}"), hidden));
            }
            for (name, size) in names.queries_and_keys.iter().zip(self.qk_norm_sizes().into_iter().flatten())
            {
                all.extend(norm(format!("{of_layer}.{name}"), size));
            }
            for (projections, biased) in names.linears.iter().zip(self.biases.by_input()) {
                for projection in *projections {
                    let ((d_out, d_in), module) = (projection.shape(self), projection.module());
                    all.push((format!("{of_layer}.{module}.weight"), vec![d_out, d_in]));
                    if biased {
                        all.push((format!("{of_layer}.{module}.bias"), vec![d_out]));
                    }
                }
            }
            all.extend(self.expert_tensors(&of_layer));
        }
        all
    }

    /// Those of a layer's router and experts, where it has them.
    fn expert_tensors(&self, of_layer: &str) -> Vec<(String, Vec<usize>)> {
        let Some(Mixture { names, experts, .. }) = self.mixture else { return Vec::new() };
        let (hidden, wide) = (self.hidden_size, self.intermediate_size);
        let mut all = vec![(format!("{of_layer}.{}.weight", names.router), vec![experts, hidden])];
        for expert in 0..experts {
            let mut push = |name, shape| all.push((names.weight(of_layer, expert, name), shape));
            names.gate_up.iter().for_each(|name| push(name, vec![wide, hidden]));
            push(names.down, vec![hidden, wide]);
        }
        all
    }

    /// Numbers in the weights of all linear layers, and in those that one token meets.
    pub fn linear_weights(&self) -> (usize, usize) {
        let size = |(d_out, d_in): (usize, usize)| d_out * d_in;
        let everywhere: usize = Site::all(self).map(|site| size(site.projection.shape(self))).sum();
        let Some(Mixture { experts, chosen, .. }) = self.mixture else { return (everywhere, everywhere) };
        let router = self.layers * experts * self.hidden_size;
        // Gate, up and down.
        let expert = self.layers * 3 * self.hidden_size * self.intermediate_size;
        (everywhere + router + experts * expert, everywhere + router + chosen * expert)
    }
}

impl Biases {
    /// In the order of [`Names::linears`].
    pub fn by_input(self) -> [bool; 4] {
        [self.qkv, self.o, self.mlp, self.mlp]
    }
}
