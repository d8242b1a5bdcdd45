//! Models on the Hugging Face hub, by name: `org/name[@revision]`.
//!
//! A [`Name`] becomes a folder of the cache that the Python client keeps too: [`fetch()`] fills it from the hub, [`cached`] finds
//! what is in it already. What is read depends on its [`Kind`]: tensors from safetensors only, since to read a pickle is to run
//! it. Everything that the hub says is checked before it becomes a path.

use crate::Error;
use std::{fmt, str::FromStr};

mod cache;
mod fetch;
mod files;
mod settings;

pub use cache::{cached, repository};
pub use fetch::{Event, fetch};
pub use files::Kind;
pub use settings::Settings;

/// The branch that a name without a revision means.
const BRANCH: &str = "main";
/// Characters of a part of a repository's name, as the hub has it.
const MAX_PART: usize = 96;
/// Characters of a revision.
const MAX_REVISION: usize = 250;

/// `org/name[@revision]`: a repository, and a branch, a tag or a commit of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// `org/name`.
    pub repository: String,
    pub revision: String,
}

impl Name {
    /// The last part of the repository's name: what a folder would be called.
    pub fn short(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or(&self.repository)
    }

    fn error(&self, message: impl fmt::Display) -> Error {
        Error::Hub { name: self.to_string(), message: message.to_string() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.revision)
    }
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, BRANCH));
        match repository.split_once('/') {
            Some((org, name)) if is_part(org) && is_part(name) => {}
            _ => return Err("expected org/name[@revision]"),
        }
        match is_revision(revision) {
            true => Ok(Self { repository: repository.into(), revision: revision.into() }),
            false => Err("the revision is not that of a branch, a tag or a commit"),
        }
    }
}

/// One of the two parts of a repository's name, by the hub's own rules.
fn is_part(text: &str) -> bool {
    let ends = |end: &[char]| text.starts_with(end) || text.ends_with(end);
    (1..=MAX_PART).contains(&text.len())
        && text.chars().all(is_plain)
        && !ends(&['-', '.'])
        && !text.contains("--")
        && !text.contains("..")
        && !text.ends_with(".git")
}

/// A git reference that is safe as a path of the cache.
fn is_revision(text: &str) -> bool {
    (1..=MAX_REVISION).contains(&text.len()) && text.split('/').all(is_file_name) && !text.contains("..")
}

/// One component of a path, which is hidden nowhere and leads nowhere else.
fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('.')
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c)
}

/// The full name of a commit.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_slash_and_may_have_a_revision() {
        let table = [
            ("org/name", "org/name", "main", "name"),
            ("a/Llama-3.1_8B", "a/Llama-3.1_8B", "main", "Llama-3.1_8B"),
            ("org/name@v1.0", "org/name", "v1.0", "name"),
            ("org/name@refs/pr/1", "org/name", "refs/pr/1", "name"),
        ];
        for (text, repository, revision, short) in table {
            let name: Name = text.parse().unwrap();
            assert_eq!((&*name.repository, &*name.revision), (repository, revision));
            assert_eq!((name.short(), name.to_string()), (short, format!("{repository}@{revision}")));
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        let long = format!("org/{}", "x".repeat(97));
        for text in [
            "",
            "name",
            "/",
            "org/",
            "/name",
            "a/b/c",
            "./name",
            "../name",
            "org/..",
            "org/.name",
            "~/name",
            "org/na me",
            "org/na--me",
            "org/name.git",
            "-org/name",
            "org/näme",
            "org/name?x",
            &long,
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
        for revision in ["", "..", "a/../b", "a//b", "/a", "a/", ".a", "a/.b", "a b", "a@b", "a?b", "a#b"] {
            assert!(format!("org/name@{revision}").parse::<Name>().is_err(), "{revision}");
        }
    }
}
