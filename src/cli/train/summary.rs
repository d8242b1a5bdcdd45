//! `training.json`: the options and measures of a run, in the adapter's folder; and where the weights of an adapter began.

use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Name of the file.
pub const SUMMARY: &str = "training.json";

/// The seed that the first weights of the adapter in `folder` were drawn with, where its training says so.
pub fn initial_seed(folder: &Path) -> Result<Option<u64>> {
    let path = folder.join(SUMMARY);
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let summary: Value = serde_json::from_slice(&text).map_err(|e| Error::file(&path, e))?;
    let (key, value) = match summary.get("initial_seed") {
        Some(value) => ("initial_seed", value),
        // Files of earlier versions: the run's own seed made the weights, unless it started from others.
        None if summary["started_from"].is_null() => ("seed", &summary["seed"]),
        None => return Ok(None),
    };
    match (value.as_u64(), key) {
        (Some(seed), _) => Ok(Some(seed)),
        (None, "initial_seed") if value.is_null() => Ok(None),
        _ => Err(Error::file(&path, format!("{key}: expected a whole number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_seed_is_known_or_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(initial_seed(folder.path()).unwrap(), None);
        let read = |text: &str| {
            std::fs::write(folder.path().join(SUMMARY), text).unwrap();
            initial_seed(folder.path()).map_err(|e| e.to_string())
        };
        assert_eq!(read(r#"{"seed": 3, "started_from": null}"#), Ok(Some(3)));
        assert_eq!(read(r#"{"seed": 3}"#), Ok(Some(3)));
        assert_eq!(read(r#"{"seed": 3, "started_from": "x"}"#), Ok(None));
        assert_eq!(read(r#"{"seed": 3, "started_from": "x", "initial_seed": 2}"#), Ok(Some(2)));
        assert_eq!(read(r#"{"seed": 3, "started_from": "x", "initial_seed": null}"#), Ok(None));
        for (text, want) in [
            (r#"{"seed": "a"}"#, "training.json: seed: expected a whole number"),
            (r#"{"initial_seed": 0.5}"#, "training.json: initial_seed: expected a whole number"),
            ("{", "training.json: EOF"),
        ] {
            assert!(read(text).unwrap_err().contains(want), "{text}");
        }
    }
}
