//! Where the hub and its cache are, as the Python client has it: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, ….

use crate::{Error, Result};
use std::{path::PathBuf, time::Duration};

/// Seconds without a byte after which the hub is given up.
const PATIENCE: u64 = 60;

/// What the environment says of the hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the cache, with a folder for each repository.
    pub cache: PathBuf,
    /// The hub's address, where it is not the usual one.
    pub endpoint: Option<String>,
    /// Whether only the cache is looked at.
    pub offline: bool,
    /// How long the hub may be silent.
    pub patience: Duration,
    /// Kept from messages and logs: there is no `Debug`.
    pub(super) token: Option<String>,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    ///
    /// No place for a cache is known, a value cannot be read, or the token cannot be one.
    pub fn from_env() -> Result<Self> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let cache_home = || {
            let base = set("XDG_CACHE_HOME").map(PathBuf::from);
            Some(base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?.join("huggingface"))
        };
        let home = set("HF_HOME").map(PathBuf::from).or_else(cache_home);
        let named = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let cache = named.or_else(|| Some(home.as_ref()?.join("hub")));
        let cache =
            cache.ok_or_else(|| Error::Usage("HF_HOME: needed, there is no home directory".into()))?;
        let file = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")));
        let stored = || std::fs::read_to_string(file?).ok();
        Ok(Self {
            cache,
            endpoint: set("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
                .iter()
                .find_map(|name| set(name))
                .is_some_and(on),
            patience: patience(set("HF_HUB_DOWNLOAD_TIMEOUT"))?,
            token: token(set("HF_TOKEN").or_else(stored))?,
        })
    }
}

/// What the Python client takes for a yes.
fn on(value: String) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase())
}

fn patience(value: Option<String>) -> Result<Duration> {
    let seconds = value.map_or(Ok(PATIENCE), |value| value.parse());
    match seconds {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Usage("HF_HUB_DOWNLOAD_TIMEOUT: expected seconds, from 1 to 86400".into())),
    }
}

/// A token goes into a header, and nothing else may.
fn token(value: Option<String>) -> Result<Option<String>> {
    let token = value.map(|value| value.trim().to_owned()).filter(|token| !token.is_empty());
    match token {
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Error::Usage("HF_TOKEN: holds a character that no token has".into()))
        }
        token => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn the_cache_is_where_the_python_client_has_it() {
        for (variables, want) in [
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")][..], "/c"),
            (&[("HUGGINGFACE_HUB_CACHE", "/c"), ("HF_HOME", "/h")], "/c"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/u")], "/x/huggingface/hub"),
            (&[("HF_HOME", " "), ("HOME", "/u")], "/u/.cache/huggingface/hub"),
        ] {
            assert_eq!(read(variables).unwrap().cache, PathBuf::from(want));
        }
        assert!(read(&[]).is_err());
    }

    #[test]
    fn a_token_is_named_or_stored() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        let token =
            |variables: &[(&str, &str)]| read(variables).map(|settings| settings.token).ok().flatten();
        assert_eq!(token(&[("HF_HOME", path)]), None);
        std::fs::write(home.path().join("token"), "stored\n").unwrap();
        assert_eq!(token(&[("HF_HOME", path)]).as_deref(), Some("stored"));
        assert_eq!(token(&[("HF_HOME", path), ("HF_TOKEN", " named ")]).as_deref(), Some("named"));
        let file = home.path().join("token");
        let elsewhere = [("HF_HOME", "/none"), ("HF_TOKEN_PATH", file.to_str().unwrap())];
        assert_eq!(token(&elsewhere).as_deref(), Some("stored"));
        let error = read(&[("HF_HOME", path), ("HF_TOKEN", "se\ncret")]).err().unwrap().to_string();
        assert!(error.starts_with("HF_TOKEN: ") && !error.contains("cret"), "{error}");
    }

    #[test]
    fn offline_endpoint_and_patience_are_read() {
        let with = |name: &str, value: &str| read(&[("HF_HOME", "/h"), (name, value)]);
        for (value, want) in
            [("1", true), ("true", true), ("Yes", true), ("on", true), ("0", false), ("", false)]
        {
            assert_eq!(with("HF_HUB_OFFLINE", value).unwrap().offline, want, "{value}");
        }
        assert!(with("TRANSFORMERS_OFFLINE", "1").unwrap().offline);
        let endpoint = with("HF_ENDPOINT", "http://127.0.0.1:1/").unwrap().endpoint;
        assert_eq!(endpoint.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "5").unwrap().patience, Duration::from_secs(5));
        assert!(
            with("HF_HUB_DOWNLOAD_TIMEOUT", "0").is_err() && with("HF_HUB_DOWNLOAD_TIMEOUT", "x").is_err()
        );
    }
}
