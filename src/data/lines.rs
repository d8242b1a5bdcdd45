//! Lines of JSON, one value each, from a file, a gzip file, or standard input.
//!
//! Lines are read one by one and are bounded in length; blank ones are passed over. Every error names
//! the file and the line, and, for a value of the wrong type, the field within it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Bytes of one line.
const MAX_LINE: usize = 16 << 20;

/// How many times its size a compressed file may have expanded; text has less than twenty times, and only a few repeated bytes have more.
const EXPANSION: u64 = 200;
/// What a small one may have in any case.
const SMALL: u64 = 64 << 20;

fn most_expanded(packed: u64) -> u64 {
    packed.saturating_mul(EXPANSION).saturating_add(SMALL)
}

/// Reads so many bytes, and fails where there are more.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(format!("expands to more than {EXPANSION} times its size")))?;
        Ok(read)
    }
}

/// An iterator over the lines of a file: line numbers, counted from 1, and values of type `T`.
pub struct Lines<T> {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    line: usize,
    bytes: Vec<u8>,
    ended: bool,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// Opens `path`: `-` is standard input, and what ends in `.gz` is decompressed.
    pub fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(Path::new("<stdin>"), BufReader::new(io::stdin())));
        }
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(match path.extension() {
            Some(extension) if extension == "gz" => {
                let packed = file.metadata().map_err(Error::io(path))?.len();
                let expanded = MultiGzDecoder::new(BufReader::new(file));
                Self::new(path, BufReader::new(Bounded { inner: expanded, left: most_expanded(packed) }))
            }
            _ => Self::new(path, BufReader::new(file)),
        })
    }

    fn new(path: &Path, reader: impl BufRead + Send + 'static) -> Self {
        let path = path.to_owned();
        Self { path, reader: Box::new(reader), line: 0, bytes: Vec::new(), ended: false, value: PhantomData }
    }

    /// Returns the file's name, for errors about what a line says.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads one line into `self.bytes`; false at the end of the file.
    fn read_line(&mut self) -> Result<bool> {
        self.bytes.clear();
        self.line += 1;
        let mut bounded = (&mut self.reader).take(MAX_LINE as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.bytes).map_err(Error::io(&self.path))?;
        if read > MAX_LINE {
            return Err(at_line(&self.path, self.line, format!("longer than {MAX_LINE} bytes")));
        }
        Ok(read > 0)
    }

    fn parse(&self) -> Result<T> {
        let mut json = serde_json::Deserializer::from_slice(&self.bytes);
        let value =
            serde_path_to_error::deserialize(&mut json).map_err(|e| match e.path().to_string().as_str() {
                // A line that ends before its first field has no path either.
                "." | "?" => at_line(&self.path, self.line, of_the_line(e.inner())),
                field => at_line(&self.path, self.line, format!("{field}: {}", without_line(e.inner()))),
            })?;
        json.end().map_err(|e| at_line(&self.path, self.line, of_the_line(&e)))?;
        Ok(value)
    }
}

impl<T: DeserializeOwned> Iterator for Lines<T> {
    type Item = Result<(usize, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.read_line() {
                Ok(true) if self.bytes.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(true) => return Some(self.parse().map(|value| (self.line, value))),
                Ok(false) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Puts file and line in front of what is wrong there.
pub fn at_line(path: &Path, line: usize, message: impl std::fmt::Display) -> Error {
    Error::Line { path: path.to_owned(), line, message: message.to_string() }
}

/// What is wrong with a line as a whole; "expected ident" alone would not tell that JSON was.
fn of_the_line(error: &serde_json::Error) -> String {
    let message = without_line(error);
    match error.is_syntax() || error.is_eof() {
        true => format!("not JSON: {message}"),
        false => message,
    }
}

/// The message of a JSON error, whose own line number is always 1 here: only the column is of use.
fn without_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::item::Item;

    fn read(text: &[u8]) -> Vec<Result<(usize, Item), String>> {
        let lines = Lines::new(Path::new("x.jsonl"), Cursor::new(text.to_vec()));
        lines.map(|line| line.map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn blank_lines_are_passed_over_and_counted() {
        let lines = read(b"{\"text\":\"a\"}\r\n\n  \n{\"text\":\"b\"}");
        let numbers: Vec<_> = lines.iter().map(|line| line.as_ref().unwrap().0).collect();
        assert_eq!(numbers, [1, 4]);
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let table: [(&[u8], &str); 8] = [
            (b"text", "x.jsonl:1: not JSON: expected ident at column 2"),
            (b"{", "x.jsonl:1: not JSON: EOF while parsing an object at column 1"),
            (b"{\"text\":3}", "x.jsonl:1: text: invalid type: integer `3`, expected a string at column 9"),
            (b"\n{\"text\":", "x.jsonl:2: text: EOF while parsing a value at column 8"),
            (b"{} {}", "x.jsonl:1: not JSON: trailing characters at column 4"),
            (
                b"{\"prompt\":3}",
                "x.jsonl:1: prompt: invalid type: integer `3`, expected a string or a list of messages, each with `role` and `content`",
            ),
            (
                b"{\"messages\":[{\"role\":\"user\"}]}",
                "x.jsonl:1: messages[0]: missing field `content` at column 28",
            ),
            (b"{\"text\":\"a\",\"text\":\"b\"}", "x.jsonl:1: duplicate field `text` at column 18"),
        ];
        for (text, want) in table {
            let message = read(text).pop().unwrap().unwrap_err();
            assert!(message.starts_with(want), "{message}");
        }
        assert!(read(b"{\"text\":\"\xff\"}").pop().unwrap().unwrap_err().starts_with("x.jsonl:1: "));
        assert!(read("[".repeat(1000).as_bytes()).pop().unwrap().is_err());
    }

    #[test]
    fn a_line_is_bounded() {
        let mut text = vec![b' '; MAX_LINE + 1];
        text.extend_from_slice(b"\n{\"text\":\"a\"}");
        let lines = read(&text);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].as_ref().unwrap_err(), &format!("x.jsonl:1: longer than {MAX_LINE} bytes"));
    }

    #[test]
    fn gzip_is_read_and_a_cut_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl.gz");
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(b"{\"text\":\"a\"}\n").unwrap();
        let bytes = gzip.finish().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Lines::<Item>::open(&path).unwrap().count(), 1);
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(Lines::<Item>::open(&path).unwrap().last().unwrap().is_err());
    }

    #[test]
    fn what_expands_without_end_is_refused() {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&vec![b' '; 1 << 20]).unwrap();
        let bomb = bomb.finish().unwrap();
        let bounded = |left| Bounded { inner: MultiGzDecoder::new(&bomb[..]), left };
        let read = |left| io::copy(&mut bounded(left), &mut io::sink());
        assert_eq!(read(1 << 20).unwrap(), 1 << 20);
        let message = read((1 << 20) - 1).unwrap_err().to_string();
        assert_eq!(message, "expands to more than 200 times its size");
        assert!(most_expanded(bomb.len() as u64) < 1000 * bomb.len() as u64 + SMALL);
    }
}
