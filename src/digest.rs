//! Digests as text.

use std::{
    ffi::OsStr,
    fs::{File, read_dir},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Endings of the files that a model is made of.
const PARTS: [&str; 6] = ["json", "safetensors", "gguf", "jinja", "model", "txt"];
/// Bytes of a file that is read whole.
const WHOLE: u64 = 256 << 20;
/// Of a larger one so many pieces are, spread evenly, of so many bytes: other weights differ everywhere.
const PIECES: u64 = 64;
const PIECE: u64 = 4096;

/// Hexadecimal digits of a fingerprint: enough to tell any two models of one service apart.
const FINGERPRINT: usize = 16;

/// A short digest of several texts, in this order.
pub fn fingerprint(parts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let mut text = hex(digest.finalize());
    text.truncate(FINGERPRINT);
    text
}

/// SHA-256 over the digest of each of several files, whatever they are called, as lower-case hexadecimal.
pub fn of_files(files: &[PathBuf]) -> Result<String> {
    let mut digest = Sha256::new();
    for file in files {
        digest.update(of_file(file).map_err(Error::io(file))?);
    }
    Ok(hex(digest.finalize()))
}

/// A digest of the file at a path, or of a folder's files of which models are made, by their names.
pub fn of_path(path: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = match path.is_dir() {
        true => read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(Error::io(path))?,
        false => vec![path.to_owned()],
    };
    files.retain(|file| file.is_file() && file.extension().is_some_and(is_part));
    files.sort();
    let of = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Ok(format!("{name} {}", of_file(file).map_err(Error::io(file))?))
    };
    Ok(fingerprint(files.iter().map(of).collect::<Result<Vec<_>>>()?))
}

fn is_part(extension: &OsStr) -> bool {
    PARTS.iter().any(|part| extension == *part)
}

fn of_file(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut digest = Sha256::new();
    digest.update(bytes.to_le_bytes());
    if bytes <= WHOLE {
        std::io::copy(&mut file, &mut digest)?;
    } else {
        for piece in 0..PIECES {
            file.seek(SeekFrom::Start((bytes - PIECE) / (PIECES - 1) * piece))?;
            std::io::copy(&mut (&mut file).take(PIECE), &mut digest)?;
        }
    }
    Ok(hex(digest.finalize()))
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads 64 hexadecimal digits, upper or lower case.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.bytes().map(|digit| char::from(digit).to_digit(16)).collect::<Option<Vec<u32>>>()?;
    let (pairs, []) = digits.as_chunks() else { return None };
    let bytes = pairs.iter().map(|[high, low]| u8::try_from(16 * high + low).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_where_a_part_ends() {
        assert_eq!(fingerprint(["a", "b"]), fingerprint(["a", "b"]));
        for other in [["b", "a"], ["ab", ""], ["", "ab"]] {
            assert_ne!(fingerprint(["a", "b"]), fingerprint(other), "{other:?}");
        }
        assert_eq!(fingerprint(["a"]).len(), FINGERPRINT);
    }

    #[test]
    fn a_folder_is_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let digest = || of_path(folder.path()).unwrap();
        write("config.json", "{}");
        write("model.safetensors", "abc");
        let first = digest();
        write("README.md", "not a part");
        assert_eq!(digest(), first);
        write("model.safetensors", "abd");
        assert_ne!(digest(), first);
        write("model.safetensors", "abc");
        assert_eq!(digest(), first);
        std::fs::rename(folder.path().join("config.json"), folder.path().join("other.json")).unwrap();
        assert_ne!(digest(), first);
        assert!(of_path(&folder.path().join("none.gguf")).is_ok_and(|digest| digest == fingerprint([""; 0])));
    }

    #[test]
    fn a_large_file_is_read_in_pieces_from_end_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.safetensors");
        let file = File::create(&path).unwrap();
        file.set_len(WHOLE + 1000).unwrap();
        let zeros = of_file(&path).unwrap();
        for at in [0, WHOLE + 999 - PIECE / 2] {
            std::os::unix::fs::FileExt::write_all_at(&file, &[1], at).unwrap();
            assert_ne!(of_file(&path).unwrap(), zeros, "{at}");
            std::os::unix::fs::FileExt::write_all_at(&file, &[0], at).unwrap();
        }
        file.set_len(WHOLE + 1001).unwrap();
        assert_ne!(of_file(&path).unwrap(), zeros, "its length counts");
    }

    #[test]
    fn hexadecimal_is_read_as_it_is_written() {
        let digest: [u8; 32] = std::array::from_fn(|i| 8 * i as u8 + 5);
        let text = hex(digest);
        assert_eq!(unhex(&text), Some(digest));
        assert_eq!(unhex(&text.to_uppercase()), Some(digest));
        for wrong in [
            "",
            &text[1..],
            &text[2..],
            &format!("{text}0"),
            &text.replace('f', "g"),
            &text.replace("0d", "+d"),
        ] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }
}
