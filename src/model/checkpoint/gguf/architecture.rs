//! The architectures that are read, and how the converter of llama.cpp changes their tensors.

use crate::{Result, gguf::Gguf};

/// What `general.architecture` stands for.
#[derive(Debug, PartialEq)]
pub struct Architecture {
    /// Its name, before every key of its own.
    pub name: &'static str,
    /// Hugging Face's `model_type`.
    pub family: &'static str,
    /// Whether the two halves of each head of queries and keys are interleaved, row by row.
    pub interleaved: bool,
    /// What is added to the weights of norms.
    pub norm_offset: f64,
    /// Layers of the model whose queries are scaled by the width that is a head's share, not by a head's size: gemma's 27B.
    pub scaled_by_width: Option<usize>,
    /// Bound of the attention's scores where the file gives none.
    pub attention_cap: Option<f64>,
    /// Number of keys that a window has where the file does not say.
    pub window: Option<usize>,
}

const PLAIN: Architecture = Architecture {
    name: "llama",
    family: "llama",
    interleaved: false,
    norm_offset: 0.0,
    scaled_by_width: None,
    attention_cap: None,
    window: None,
};
/// Stored as the 1 + w that norms multiply by.
const GEMMA: Architecture = Architecture { name: "gemma", family: "gemma", norm_offset: 1.0, ..PLAIN };

const ALL: [Architecture; 7] = [
    // Mistral says `llama` too.
    Architecture { interleaved: true, ..PLAIN },
    Architecture { name: "qwen2", family: "qwen2", ..PLAIN },
    Architecture { name: "qwen3", family: "qwen3", ..PLAIN },
    GEMMA,
    Architecture {
        name: "gemma2",
        family: "gemma2",
        scaled_by_width: Some(46),
        attention_cap: Some(50.0),
        window: Some(4096),
        ..GEMMA
    },
    Architecture { name: "gemma3", family: "gemma3_text", scaled_by_width: Some(62), ..GEMMA },
    Architecture { name: "phi3", family: "phi3", ..PLAIN },
];

impl Architecture {
    /// The one that a file names.
    pub fn of(gguf: &Gguf) -> Result<&'static Self> {
        const KEY: &str = "general.architecture";
        let name = gguf.required(KEY, gguf.text(KEY)?)?;
        const KNOWN: &[Architecture] = &ALL;
        KNOWN.iter().find(|known| known.name == name).ok_or_else(|| {
            let known = KNOWN.iter().map(|known| known.name).collect::<Vec<_>>().join(", ");
            gguf.wrong(KEY, format!("`{name}` is not supported (hint: {known} are)"))
        })
    }
}
