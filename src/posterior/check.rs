//! Whether a posterior belongs to an adapter: the same blocks, the same shapes, the same parameters.

use std::collections::{BTreeMap, BTreeSet};

use super::FitConfig;
use crate::model::head::Outputs;

/// The adapter that a posterior is to be used with.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// (d_out, d_in) of every trainable block, by name.
    pub trainable: &'a BTreeMap<String, (usize, usize)>,
    /// Digest of its tensors, lower-case hexadecimal.
    pub adapter_sha256: &'a str,
    /// Digest of its forward on its base, where that is known.
    pub forward_sha256: Option<&'a str>,
    /// Digest of the chat template; `None` where the model has none.
    pub template_sha256: Option<&'a str>,
    /// How its head's outputs become the reward, where that is known.
    pub outputs: Option<&'a Outputs>,
}

/// What a posterior claims to hold: block names, each with its shape (d_out, d_in) where that could be read.
pub type Claimed = BTreeMap<String, Option<(usize, usize)>>;

impl Target<'_> {
    /// Lists every reason to refuse the posterior.
    pub(super) fn problems(&self, claimed: &Claimed, config: Option<&FitConfig>) -> Vec<String> {
        let mut problems = Vec::new();
        let fitted_to = config.and_then(|config| config.adapter_sha256.as_deref());
        if let Some(fitted_to) = fitted_to.filter(|digest| !digest.eq_ignore_ascii_case(self.adapter_sha256))
        {
            let own = self.adapter_sha256;
            problems.push(format!(
                "fitted to another adapter: its sha256 is {fitted_to}, this one's {own} (hint: run `fit` again)"
            ));
        }
        let forward = config.and_then(|config| config.forward_sha256.as_deref());
        if let (Some(fitted), Some(own)) = (forward, self.forward_sha256)
            && problems.is_empty()
            && !fitted.eq_ignore_ascii_case(own)
        {
            problems.push(format!(
                "fitted to another forward of this adapter: the base's weights or settings, or the adapter's `lora_alpha`, `r` or \
                 `use_rslora` are others; its forward_sha256 is {fitted}, this one's {own} (hint: run `fit` again)"
            ));
        }
        // Other programs do not say which output they took.
        let fitted = config
            .and_then(|config| config.outputs.clone().or(config.version.is_some().then(Outputs::default)));
        if let (Some(fitted), Some(own)) = (&fitted, self.outputs)
            && fitted != own
        {
            problems.push(format!(
                "fitted to another reward of the head: {fitted}, not {own} (hint: run `fit` again)"
            ));
        }
        for (name, shape) in claimed {
            match (self.trainable.get(name), shape) {
                (None, _) => problems.push(format!("{name}: the adapter has no such block")),
                (Some((o, i)), Some((d_out, d_in))) if (o, i) != (d_out, d_in) => problems.push(format!(
                    "{name}: the bases are of a {d_out} x {d_in} matrix, the adapter's is {o} x {i}"
                )),
                _ => {}
            }
        }
        let left_out: BTreeSet<&String> = config.iter().flat_map(|config| &config.left_out).collect();
        let absent =
            self.trainable.keys().filter(|name| !claimed.contains_key(*name) && !left_out.contains(name));
        problems.extend(absent.map(|name| format!("{name}: the posterior has no such block")));
        problems
    }

    /// Lists what is unusual but no reason to refuse.
    pub(super) fn warnings(&self, config: Option<&FitConfig>) -> Vec<String> {
        let fitted_with = config.and_then(|config| config.template_sha256.as_deref());
        let differs = fitted_with.filter(|fitted_with| {
            !self.template_sha256.is_some_and(|own| own.eq_ignore_ascii_case(fitted_with))
        });
        let unchecked =
            self.forward_sha256.is_some() && config.is_none_or(|config| config.forward_sha256.is_none());
        let warnings = [
            (differs.is_some(), "the posterior was fitted with another chat template: variances may be off"),
            (
                unchecked,
                "the posterior does not say which base and which scale of the adapter it was fitted to, so that these were not \
                 checked (hint: `fit` writes that)",
            ),
        ];
        warnings.into_iter().filter(|(is, _)| *is).map(|(_, warning)| warning.to_owned()).collect()
    }
}
