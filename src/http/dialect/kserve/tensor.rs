//! Columns of texts or token ids, which make the rows that are scored.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    Error, Result,
    http::object::Object,
    item::{Input, Place, Placed},
};

/// A tensor that comes in.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = KserveTensor)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub datatype: String,
    /// Flat or nested.
    #[schema(value_type = Vec<Object>)]
    pub data: Value,
}

/// The rows that the columns make.
pub fn rows(tensors: Vec<Object<Tensor>>) -> Result<Vec<Placed>> {
    let tensors: Vec<(usize, Tensor)> =
        tensors.into_iter().map(|Object(tensor)| tensor).enumerate().collect();
    let find = |names: &[&str]| tensors.iter().find(|(_, tensor)| names.contains(&tensor.name.as_str()));
    let rows: Vec<Input> =
        match (find(&["prompt"]), find(&["response"]), find(&["text", "sentences"]), find(&["tokens"])) {
            (Some(prompts), Some(responses), None, None) => {
                let (prompts, responses) = (texts(prompts)?, texts(responses)?);
                if prompts.len() != responses.len() {
                    let message = format!("{} prompts and {} responses", prompts.len(), responses.len());
                    return Err(Error::field("inputs", message));
                }
                let pair =
                    |(prompt, response): (String, String)| Input::Pair { prompt: prompt.into(), response };
                prompts.into_iter().zip(responses).map(pair).collect()
            }
            (None, None, Some(text), None) => texts(text)?.into_iter().map(Input::Text).collect(),
            (None, None, None, Some(tokens)) => token_rows(tokens, find(&["sequence_lengths"]))?,
            _ => {
                let message = "expected `prompt` and `response`, or one of `text`, `sentences` and `tokens`";
                return Err(Error::field("inputs", message));
            }
        };
    match rows.len() {
        0 => Err(Error::field("inputs", "no rows")),
        _ => Ok(rows
            .into_iter()
            .enumerate()
            .map(|(at, row)| Place::element("inputs.data", at).of(row))
            .collect()),
    }
}

/// The elements of a tensor in their order, as many as its shape says.
fn elements((at, tensor): &(usize, Tensor)) -> Result<Vec<&Value>> {
    fn flatten<'a>(value: &'a Value, into: &mut Vec<&'a Value>) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| flatten(value, into)),
            value => into.push(value),
        }
    }
    let mut elements = Vec::new();
    flatten(&tensor.data, &mut elements);
    let wanted = tensor.shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size));
    match wanted == Some(elements.len()) {
        true => Ok(elements),
        false => {
            let message = format!("{} elements, not those of the shape {:?}", elements.len(), tensor.shape);
            Err(Error::field(format!("inputs[{at}].data"), message))
        }
    }
}

fn of_type((at, tensor): &(usize, Tensor), types: &[&str]) -> Result<()> {
    match types.contains(&tensor.datatype.as_str()) {
        true => Ok(()),
        false => Err(Error::field(format!("inputs[{at}].datatype"), format!("not one of {types:?}"))),
    }
}

fn texts(tensor: &(usize, Tensor)) -> Result<Vec<String>> {
    of_type(tensor, &["BYTES"])?;
    let wrong = || Error::field(format!("inputs[{}].data", tensor.0), "not texts");
    elements(tensor)?.into_iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn numbers(tensor: &(usize, Tensor)) -> Result<Vec<u32>> {
    of_type(tensor, &["INT64", "INT32", "UINT32"])?;
    let wrong = || Error::field(format!("inputs[{}].data", tensor.0), "not token ids");
    let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
    elements(tensor)?.into_iter().map(number).collect()
}

/// Rows of ids, each as long as its number says.
fn token_rows(tokens: &(usize, Tensor), lengths: Option<&(usize, Tensor)>) -> Result<Vec<Input>> {
    let ids = numbers(tokens)?;
    let width = tokens.1.shape.last().copied().unwrap_or(0).max(1);
    let rows = ids.chunks(width);
    let lengths = match lengths {
        None => vec![width; rows.len()],
        Some(lengths) => numbers(lengths)?.into_iter().map(|length| length as usize).collect(),
    };
    if lengths.len() != rows.len() || lengths.iter().any(|length| *length == 0 || *length > width) {
        return Err(Error::field("inputs", "`sequence_lengths` does not fit `tokens`"));
    }
    Ok(rows.zip(lengths).map(|(row, length)| Input::Ids(row[..length].to_vec())).collect())
}
