//! API keys: a name, a digest and roles each; the keys themselves are not kept.
//!
//! A key that is shown is hashed, and its digest compared with all of ours in constant time, so that the time of an answer says
//! nothing of how near it came. No message holds a key.

use std::{fmt, path::Path};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::Role;
use crate::{
    Error, Result,
    data::lines::{Lines, at_line},
    digest::unhex,
    engine::terms::Priority,
};

/// How a digest begins that is given in a key's place.
const HASHED: &str = "sha256:";
/// Bytes of a key's name.
const MAX_NAME: usize = 64;

/// A key as it was given, or its digest as `sha256:HEX`.
#[derive(Clone)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Whatever else it may be is a secret too, which serde's own message would tell.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("must be a string")),
        }
    }
}

impl Secret {
    fn digest(&self) -> Result<Digest> {
        let wrong = |message| Err(Error::field("key", message));
        let Self(text) = self;
        match text.strip_prefix(HASHED) {
            Some(hex) => match unhex(hex) {
                Some(digest) => Ok(Digest(digest)),
                None => wrong("`sha256:` must be followed by 64 hexadecimal digits"),
            },
            None if text.is_empty() => wrong("empty"),
            None if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                wrong("only visible ASCII characters can be sent in a header")
            }
            None => Ok(Digest::of(text.as_bytes())),
        }
    }
}

/// The SHA-256 digest of a key.
#[derive(Clone, Eq)]
struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

impl PartialEq for Digest {
    /// Takes the same time whatever differs.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// A key that opens the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    name: String,
    digest: Digest,
    roles: Vec<Role>,
    highest: Priority,
}

impl Key {
    /// Checks and hashes a key, whose requests may have no more than the normal priority; its name is what logs call it.
    pub fn new(name: impl Into<String>, secret: &Secret, roles: Vec<Role>) -> Result<Self> {
        let name = name.into();
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let begins_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !begins_well || name.len() > MAX_NAME || !name.bytes().all(usual) {
            let message = format!(
                "must be letters, digits, `.`, `_` and `-`, at most {MAX_NAME}, and not begin with a sign"
            );
            return Err(Error::field("name", message));
        }
        if roles.is_empty() {
            return Err(Error::field("roles", "empty (hint: `score`, `metrics` or `admin`)"));
        }
        Ok(Self { name, digest: secret.digest()?, roles, highest: Priority::default() })
    }

    /// The same key, whose requests may have up to this priority.
    pub fn up_to(self, highest: Priority) -> Self {
        Self { highest, ..self }
    }

    /// Returns the highest priority that its requests may have.
    pub fn highest(&self) -> Priority {
        self.highest
    }

    /// Returns what logs call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has the role, or may do everything.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.roles.contains(&Role::Admin)
    }
}

/// The keys that open the service; with none it is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads a file of keys, one JSON object a line.
    pub fn read(path: &Path) -> Result<Self> {
        let mut keys = Self::default();
        for line in Lines::<Line>::open(path)? {
            let (line, Line(Fields { name, key, roles, priority })) = line?;
            let added = Key::new(name, &key, roles).and_then(|key| keys.add(key.up_to(priority)));
            added.map_err(|error| at_line(path, line, error))?;
        }
        match keys.is_empty() {
            true => Err(Error::file(path, "no keys (hint: leave the file out to let everyone in)")),
            false => Ok(keys),
        }
    }

    /// Adds a key, whose name and secret must be new.
    pub fn add(&mut self, key: Key) -> Result<()> {
        if self.0.iter().any(|other| other.name == key.name) {
            return Err(Error::field("name", format!("`{}` is there already", key.name)));
        }
        if let Some(other) = self.0.iter().find(|other| other.digest == key.digest) {
            return Err(Error::field("key", format!("the same as that of `{}`", other.name)));
        }
        self.0.push(key);
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them has a role.
    pub fn have(&self, role: Role) -> bool {
        self.0.iter().any(|key| key.has(role))
    }

    /// Finds the key that was shown. All are looked at, also when one has been found.
    pub fn find(&self, shown: &[u8]) -> Option<&Key> {
        let digest = Digest::of(shown);
        self.0.iter().fold(None, |found, key| if key.digest == digest { Some(key) } else { found })
    }
}

/// A line of a file of keys.
struct Line(Fields);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    key: Secret,
    roles: Vec<Role>,
    /// The highest that its requests may have.
    #[serde(default)]
    priority: Priority,
}

impl<'de> Deserialize<'de> for Line {
    /// By way of a value: a line that is not an object may be a bare key, which serde's own message would tell.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if !value.is_object() {
            return Err(D::Error::custom("must be an object"));
        }
        serde_path_to_error::deserialize(value).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    fn keys(text: &str) -> Result<Keys, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        std::fs::write(&path, text).unwrap();
        let folder = format!("{}/", folder.path().display());
        Keys::read(&path).map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn a_key_is_found_by_itself_or_by_its_digest() {
        let keys = keys(concat!(
            "{\"name\":\"a\",\"key\":\"first\",\"roles\":[\"score\"]}\n\n",
            // printf %s second | sha256sum
            "{\"name\":\"b\",\"key\":\"sha256:",
            "16367AACB67A4A017C8DA8AB95682CCB390863780F7114DDA0A0E0C55644C7C4",
            "\",\"roles\":[\"metrics\",\"score\"]}\n",
            "{\"name\":\"c\",\"key\":\"third\",\"roles\":[\"admin\"],\"priority\":\"high\"}",
        ));
        let keys = keys.unwrap();
        let name = |shown: &str| keys.find(shown.as_bytes()).map(Key::name);
        assert_eq!([name("first"), name("second"), name("third")], [Some("a"), Some("b"), Some("c")]);
        for wrong in [
            "",
            "firs",
            "first ",
            "First",
            "sha256:16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4",
        ] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        let has = |shown: &str| {
            [Role::Score, Role::Metrics, Role::Admin]
                .map(|role| keys.find(shown.as_bytes()).unwrap().has(role))
        };
        assert_eq!(has("first"), [true, false, false]);
        assert_eq!(has("second"), [true, true, false]);
        assert_eq!(has("third"), [true, true, true]);
        let highest = |shown: &str| keys.find(shown.as_bytes()).map(Key::highest);
        assert_eq!((highest("first"), highest("third")), (Some(Priority::Normal), Some(Priority::High)));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_told() {
        let line = r#"{"name":"a","key":"hidden","roles":["score"]}"#;
        let table = [
            (String::new(), "keys.jsonl: no keys (hint:"),
            ("hidden".into(), "keys.jsonl:1: not JSON"),
            (format!("{line}\n\"hidden\""), "keys.jsonl:2: must be an object"),
            (line.replace(r#""hidden""#, "12345678"), "keys.jsonl:1: key: must be a string"),
            (line.replace("hidden", ""), "keys.jsonl:1: key: empty"),
            (line.replace("hidden", "hidden hidden"), "keys.jsonl:1: key: only visible ASCII"),
            (line.replace("hidden", "sha256:hidden"), "keys.jsonl:1: key: `sha256:` must be followed by 64"),
            (line.replace(r#","key":"hidden""#, ""), "keys.jsonl:1: missing field `key`"),
            (line.replace("name", "nam"), "keys.jsonl:1: nam: unknown field `nam`"),
            (line.replace(r#""a""#, r#""""#), "keys.jsonl:1: name: must be"),
            (line.replace(r#""a""#, r#""-""#), "keys.jsonl:1: name: must be"),
            (line.replace(r#""a""#, r#""a b""#), "keys.jsonl:1: name: must be"),
            (line.replace("score", "scores"), "keys.jsonl:1: roles[0]: unknown variant `scores`"),
            (line.replace(r#""score""#, ""), "keys.jsonl:1: roles: empty (hint:"),
            (
                line.replace("]}", r#"],"priority":"top"}"#),
                "keys.jsonl:1: priority: unknown variant `top`, expected one of `high`, `normal`, `low`",
            ),
            (
                format!("{line}\n{}", line.replace("hidden", "other")),
                "keys.jsonl:2: name: `a` is there already",
            ),
            (
                format!("{line}\n{}", line.replace(r#""a""#, r#""b""#)),
                "keys.jsonl:2: key: the same as that of `a`",
            ),
        ];
        for (text, want) in table {
            let message = keys(&text).unwrap_err();
            assert!(message.starts_with(want), "{text}: {message}");
            assert!(!message.contains("hidden") && !message.contains("12345678"), "{message}");
        }
        let missing = Keys::read(Path::new("/no/keys")).unwrap_err().to_string();
        assert!(missing.starts_with("/no/keys: "), "{missing}");
    }

    #[test]
    fn no_key_is_shown_for_debugging() {
        let key = Key::new("a", &secret("hidden"), vec![Role::Score]).unwrap();
        assert_eq!(format!("{:?}", secret("hidden")), "Secret");
        assert_eq!(
            format!("{key:?}"),
            r#"Key { name: "a", digest: Digest, roles: [Score], highest: Normal }"#
        );
    }
}
