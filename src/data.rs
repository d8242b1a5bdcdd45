//! Preference data and item files.
//!
//! Pairs come as JSONL, gzipped JSONL or Parquet; items as JSONL, gzipped or not, or from standard
//! input. Nothing is dropped: what cannot be read is an error that names file and line (or row).

use std::{path::Path, sync::Arc};

use crate::{
    Error, Result,
    item::{Input, Item},
};

pub mod lines;
pub mod pairs;
pub mod pools;
mod table;

use lines::{Lines, at_line};
pub use pairs::Pair;

/// An item's id, where it has one, and what it says.
pub type NamedInput = (Option<String>, Input);

/// Reads all preference pairs of a `.jsonl`, `.jsonl.gz` or `.parquet` file; a file without any is an error.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    let pairs = match path.extension() {
        Some(extension) if extension == "parquet" => table::read(path)?,
        _ => {
            let lines = Lines::<pairs::Record>::open(path)?;
            let path: Arc<Path> = lines.path().into();
            let pair = |line: Result<(usize, pairs::Record)>| {
                let (number, record) = line?;
                let pair = record.parse().map_err(|e| at_line(&path, number, e))?;
                Ok(pair.at(&path, number))
            };
            lines.map(pair).collect::<Result<_>>()?
        }
    };
    if pairs.is_empty() {
        return Err(Error::file(path, "no preference pair in it"));
    }
    Ok(pairs)
}

/// Reads all items of a file, in its order; `-` is standard input.
pub fn read_items(path: &Path) -> Result<Vec<NamedInput>> {
    items(path)?.collect()
}

/// Opens a file of items, to be read one by one; `-` is standard input.
pub fn items(path: &Path) -> Result<impl Iterator<Item = Result<NamedInput>>> {
    let lines = Lines::<Item>::open(path)?;
    let path = lines.path().to_owned();
    let parse = |mut item: Item| Ok((item.id.take(), item.parse()?));
    Ok(lines.map(move |line| located(&path, line, parse)))
}

/// Parses what a line holds, and puts file and line in front of what is wrong with it.
fn located<T, U>(path: &Path, line: Result<(usize, T)>, parse: impl FnOnce(T) -> Result<U>) -> Result<U> {
    let (number, value) = line?;
    parse(value).map_err(|e| at_line(path, number, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn items_keep_their_order_and_ids() {
        let (_folder, path) = file("x.jsonl", "{\"id\":\"1\",\"text\":\"a\"}\n\n{\"input_ids\":[1]}\n");
        let want = [(Some("1".to_owned()), Input::Text("a".into())), (None, Input::Ids(vec![1]))];
        assert_eq!(read_items(&path).unwrap(), want);
    }

    #[test]
    fn pairs_know_their_places() {
        let pair = r#"{"prompt":"p","chosen":"c","rejected":"r"}"#;
        let (_folder, path) = file("x.jsonl", &format!("{pair}\n\n{pair}\n"));
        let places: Vec<String> = read_pairs(&path)
            .unwrap()
            .iter()
            .map(|pair| pair.place.as_ref().unwrap().wrong("!").to_string())
            .collect();
        assert!(places[0].ends_with("x.jsonl:1: !") && places[1].ends_with("x.jsonl:3: !"), "{places:?}");
    }

    #[test]
    fn what_is_wrong_is_located() {
        let pair = r#"{"prompt":"p","chosen":"c","rejected":"r"}"#;
        let table = [
            (format!("{pair}\n{{\"prompt\":\"p\",\"chosen\":\"c\"}}"), "x.jsonl:2: missing field `rejected`"),
            (format!("{pair}\n\n{{\"chosen\":[],\"rejected\":[]}}"), "x.jsonl:3: chosen: empty"),
            (format!("{pair}\nnot json"), "x.jsonl:2: not JSON: expected ident at column 2"),
            (
                r#"{"chosen":"c","rejected":"r","margin":1e999}"#.to_owned(),
                "x.jsonl:1: margin: number out of range",
            ),
            (String::new(), "x.jsonl: no preference pair in it"),
        ];
        for (text, want) in table {
            let (_folder, path) = file("x.jsonl", &text);
            let message = read_pairs(&path).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
        let (_folder, path) = file("x.jsonl", "{\"prompt\":\"p\"}");
        let message = read_items(&path).unwrap_err().to_string();
        assert!(message.ends_with("x.jsonl:1: response: missing beside `prompt`"), "{message}");
        let message = read_pairs(Path::new("nowhere/x.jsonl")).unwrap_err().to_string();
        assert!(message.starts_with("nowhere/x.jsonl: "), "{message}");
    }
}
