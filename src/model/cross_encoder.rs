//! Encoders with a classification head as reward models: BERT, DeBERTa-v2 and v3, ModernBERT.
//!
//! A cross-encoder reads prompt and response together, every token all others, and pools one vector, of which the head's
//! output is the reward. There is no adapter and no posterior: means only. The encoders are candle's; what stands on them is here.

use super::{checkpoint::folder, head::Outputs};
use crate::{
    Error, Result, files,
    nn::{exact::numbers, product::product},
    text::{Encoder, Reader, TokenSeq},
};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use std::{path::Path, sync::Arc};

mod body;

use body::{Body, Family};

/// A reward model whose attention goes both ways.
pub struct CrossEncoder {
    /// `model_type`.
    pub family: &'static str,
    pub vocabulary: usize,
    pub parameters: usize,
    /// Without a chat template prompt and response are a pair of texts, as the tokenizer joins them.
    pub reader: Reader,
    body: Body,
    /// (1, C)
    head: Tensor,
    head_bias: f64,
    device: Device,
}

impl CrossEncoder {
    /// Whether a checkpoint is one by its `model_type`.
    pub fn is_one(path: &Path) -> bool {
        let json = files::read(&path.join(folder::CONFIG), folder::MAX_JSON).ok();
        json.is_some_and(|json| Family::of(&json).is_some())
    }

    /// Template and tokenizer alone.
    pub fn encoder(path: &Path) -> Result<Encoder> {
        text(path, &family(path)?)
    }

    /// Opens a checkpoint folder.
    pub fn open(path: &Path, outputs: &Outputs, device: &Device) -> Result<Self> {
        let family = family(path)?;
        let weights = folder::weights(path)?;
        let head = weights
            .head(HEAD)?
            .ok_or_else(|| Error::file(path, format!("{} is missing: no reward head", HEAD[0])))?;
        let (head, head_bias) = head.reward(outputs)?;
        let parameters = weights.elements();
        let weights = VarBuilder::from_tensors(weights.read()?, DType::F32, device);
        let body = family.load(&weights).map_err(|e| Error::file(path, first_line(&e)))?;
        let encoder = text(path, &family)?;
        Ok(Self {
            family: family.name(),
            vocabulary: family.vocabulary(),
            parameters,
            reader: Reader { encoder: Arc::new(encoder), max_length: family.max_length() },
            body,
            head: head.to_device(device)?,
            head_bias,
            device: device.clone(),
        })
    }

    /// A reward for each sequence, each computed by itself.
    pub fn rewards(&self, sequences: &[&TokenSeq]) -> Result<Vec<f64>> {
        sequences.par_iter().map(|sequence| self.reward(sequence)).collect()
    }

    fn reward(&self, sequence: &TokenSeq) -> Result<f64> {
        let ids = Tensor::new(&sequence.ids[..], &self.device)?.unsqueeze(0)?;
        let types = Tensor::new(self.reader.encoder.types(&sequence.ids), &self.device)?.unsqueeze(0)?;
        let pooled = self.body.pooled(&ids, &types)?;
        Ok(numbers(&product(&pooled, &self.head.t()?)?)?[0] + self.head_bias)
    }
}

fn family(path: &Path) -> Result<Family> {
    let file = path.join(folder::CONFIG);
    let json = files::read(&file, folder::MAX_JSON)?;
    Family::parse(&json).map_err(|e| Error::file(&file, e))
}

fn text(path: &Path, family: &Family) -> Result<Encoder> {
    Ok(Encoder::from_folder(path, None)?.of_pairs().with_vocabulary(family.vocabulary()))
}

/// The head's names in a checkpoint.
const HEAD: [&str; 2] = ["classifier.weight", "classifier.bias"];

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
