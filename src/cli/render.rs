//! `rewarden render`: what a model sees of an item: the templated text, its tokens, and the one that is pooled.

use super::{model::BaseArgs, output::write_stdout, place::Place};
use crate::{
    Result,
    data::lines::{Lines, at_line},
    hub::Kind,
    item::{Id, Item},
    model::checkpoint::Checkpoint,
    text::Limit,
};
use serde::Serialize;
use std::path::PathBuf;

/// Flags of `rewarden render`.
#[derive(Debug, clap::Args)]
pub struct Render {
    /// Base model: a Hugging Face checkpoint folder, a .gguf file, or a name on the hub, `org/name[@revision]`; its weights are
    /// neither read nor fetched [default: the embedded one]
    #[arg(long, value_name = "PATH|NAME", env = "REWARDEN_MODEL")]
    model: Option<Place>,
    /// Items, one JSON object a line, plain or gzipped; `-` is standard input
    #[arg(long, value_name = "FILE", env = "REWARDEN_INPUT")]
    input: PathBuf,
}

/// One line of output; what is refused has an error instead.
#[derive(Debug, Default, Serialize)]
struct Line {
    id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_ids: Option<Vec<u32>>,
    /// Index of the token whose hidden state the head reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pooled: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Render {
    /// Renders every item; an item that is refused is a line with its error.
    pub fn run(self) -> Result<()> {
        let path = match self.model {
            Some(place) => place.path(Kind::Text)?,
            None => BaseArgs::embedded_path()?,
        };
        let encoder = Checkpoint::encoder(&path)?;
        let lines = Lines::<Item<Id>>::open(&self.input)?;
        let (name, mut output) = (lines.path().to_owned(), String::new());
        let limit = Limit { max_length: usize::MAX, truncation: None };
        for line in lines {
            let (number, mut item): (usize, Item<Id>) = line?;
            let id = item.id.take();
            let encoded = item.parse().and_then(|input| {
                let text = encoder.text(&input)?;
                Ok((text, encoder.encode(&input, &limit)?))
            });
            let line = match encoded {
                Ok((text, sequence)) => Line {
                    id,
                    text,
                    input_ids: Some(sequence.ids),
                    pooled: Some(sequence.pooled),
                    error: None,
                },
                Err(e) => Line { id, error: Some(e.to_string()), ..Line::default() },
            };
            output += &serde_json::to_string(&line).map_err(|e| at_line(&name, number, e))?;
            output.push('\n');
        }
        write_stdout(&output)
    }
}
