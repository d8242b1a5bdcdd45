//! The `tojson` filter as chat templates know it: Python's `json.dumps(x, ensure_ascii=False)`.
//!
//! Jinja's own filter escapes HTML, and Python writes `", "` and `": "` where serde_json writes no
//! space; both would change the tokens.

use std::io;

use minijinja::{Error, ErrorKind, Value, value::Kwargs};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Deeper indents are refused: they only make the output long.
const MAX_INDENT: usize = 16;

/// Writes `value` as JSON; keyword arguments are `indent` (spaces) and `ensure_ascii`.
pub fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    options.assert_all_used()?;
    if indent.is_some_and(|n| n > MAX_INDENT) {
        return Err(invalid(format!("tojson: indent is more than {MAX_INDENT}")));
    }
    let mut out = Vec::new();
    let style = Python { indent, ascii, depth: 0, empty: true };
    value.serialize(&mut Serializer::with_formatter(&mut out, style)).map_err(|e| invalid(e.to_string()))?;
    String::from_utf8(out).map(Value::from).map_err(|e| invalid(e.to_string()))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Separators, line breaks and escapes of Python's `json.dumps`.
struct Python {
    /// Spaces per level; `None` writes one line.
    indent: Option<usize>,
    /// Whether characters past ASCII are escaped.
    ascii: bool,
    depth: usize,
    /// Whether the list or map being written has nothing in it so far.
    empty: bool,
}

impl Python {
    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line_break(writer)?;
        }
        self.empty = false;
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if !self.empty {
            writer.write_all(if self.indent.is_some() { b"," } else { b", " })?;
        }
        self.empty = false;
        self.line_break(writer)
    }

    fn line_break<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:1$}", "", indent * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, _first: bool) -> io::Result<()> {
        self.next(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, _first: bool) -> io::Result<()> {
        self.next(writer)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        if !self.ascii {
            return writer.write_all(text.as_bytes());
        }
        for unit in text.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => writer.write_all(&[byte])?,
                _ => write!(writer, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}
