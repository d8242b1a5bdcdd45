//! One digest of everything that decides a forward pass, except its input: a posterior is fitted to one such forward, and to no other.
//!
//! The weights of the base, the settings that place or scale them, and the adapter's tensors with the scale of each update. A
//! change of `lora_alpha` alone changes every gradient, and so every variance, though no tensor differs.

use super::{adapter::Adapter, checkpoint::Checkpoint};
use crate::{Result, digest};
use sha2::{Digest, Sha256};

/// SHA-256 of a base's forward with an adapter, as lower-case hexadecimal; `adapter_sha256` is [`Adapter::sha256`].
pub fn sha256(base: &Checkpoint, adapter: &Adapter, adapter_sha256: &str) -> Result<String> {
    let mut hash = Sha256::new();
    let updates = adapter.lora.iter().map(|(site, lora)| format!("{site} {}", lora.scale));
    let embedding =
        adapter.embedding.iter().map(|lora| format!("{} {}", adapter.embedding_module, lora.scale));
    let parts = [base.weights_sha256()?.to_owned(), base.config.settings(), adapter_sha256.to_lowercase()];
    for part in parts.into_iter().chain(updates).chain(embedding) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(digest::hex(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    fn fixture() -> (Checkpoint, Adapter) {
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/llama-0");
        let base = Checkpoint::open(&case.join("base")).unwrap();
        let adapter = Adapter::load(&case.join("adapter"), &base.config).unwrap();
        (base, adapter)
    }

    fn of(base: &Checkpoint, adapter: &Adapter) -> String {
        sha256(base, adapter, &adapter.sha256().unwrap()).unwrap()
    }

    #[test]
    fn whatever_decides_the_forward_changes_the_digest() {
        let (base, adapter) = fixture();
        let own = of(&base, &adapter);
        assert_eq!(own.len(), 64);
        let mut scaled = adapter.clone();
        scaled.lora.values_mut().for_each(|lora| lora.scale *= 4.0);
        assert_ne!(own, of(&base, &scaled), "`lora_alpha`");
        let mut settings = base.clone();
        settings.config.norm_eps *= 2.0;
        assert_ne!(own, of(&settings, &adapter));
        settings = base.clone();
        settings.config.ropes[0].theta *= 2.0;
        assert_ne!(own, of(&settings, &adapter));
        settings = base.clone();
        settings.config.max_length += 1;
        assert_eq!(
            own,
            of(&settings, &adapter),
            "how long a sequence may be decides nothing of a shorter one"
        );
    }

    #[test]
    fn other_weights_are_another_forward_and_another_place_is_not() {
        let (base, adapter) = fixture();
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&base.path).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let copy = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(of(&base, &adapter), of(&copy, &adapter));
        let file = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        // The lowest byte of the last number.
        let at = bytes.len() - 4;
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_ne!(of(&base, &adapter), of(&Checkpoint::open(folder.path()).unwrap(), &adapter));
    }
}
