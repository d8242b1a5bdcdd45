//! Preference pairs in Parquet files.
//!
//! A row is read as the JSON object that it stands for, so that both kinds of file follow the same
//! rules; only the columns that say something about a pair are decoded.

use std::{path::Path, sync::Arc};

use parquet::{
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::{Field, Row},
    schema::types::Type,
};
use serde_json::{Map, Value};

use super::{
    lines::at_line,
    pairs::{Pair, Record},
};
use crate::{Error, Result, files};

/// Reads every row; errors count rows from 1.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    files::guarded(path, || rows(path))
}

fn rows(path: &Path) -> Result<Vec<Pair>> {
    let file = files::open(path)?;
    let reader = SerializedFileReader::new(file).map_err(|e| Error::file(path, e))?;
    let columns = columns_read(&reader).map_err(|e| Error::file(path, e))?;
    let rows = reader.get_row_iter(Some(columns)).map_err(|e| Error::file(path, e))?;
    let place: Arc<Path> = path.into();
    rows.zip(1..)
        .map(|(row, number)| {
            let wrong = |message: String| at_line(path, number, message);
            let row = object(row.map_err(|e| wrong(e.to_string()))?).map_err(wrong)?;
            let record = serde_path_to_error::deserialize::<_, Record>(row);
            let pair = record.map_err(|e| wrong(e.to_string()))?.parse();
            Ok(pair.map_err(|e| wrong(e.to_string()))?.at(&place, number))
        })
        .collect()
}

/// The file's schema, less the columns that are not read.
fn columns_read(reader: &impl FileReader) -> parquet::errors::Result<Type> {
    let root = reader.metadata().file_metadata().schema();
    let read = root.get_fields().iter().filter(|field| Record::FIELDS.contains(&field.name()));
    Type::group_type_builder(root.name()).with_fields(read.map(Arc::clone).collect()).build()
}

fn object(row: Row) -> Result<Value, String> {
    let columns = row.into_columns().into_iter().map(|(name, field)| match value(field) {
        Ok(value) => Ok((name, value)),
        Err(message) => Err(format!("{name}: {message}")),
    });
    columns.collect::<Result<Map<_, _>, _>>().map(Value::Object)
}

/// JSON has no NaN, and a null would pass for a field that is not there: such numbers are errors.
fn value(field: Field) -> Result<Value, String> {
    let number = |n: f64| {
        serde_json::Number::from_f64(n).map(Value::Number).ok_or_else(|| format!("not a finite number: {n}"))
    };
    match field {
        Field::Null => Ok(Value::Null),
        Field::Bool(flag) => Ok(flag.into()),
        Field::Byte(n) => Ok(n.into()),
        Field::Short(n) => Ok(n.into()),
        Field::Int(n) => Ok(n.into()),
        Field::Long(n) => Ok(n.into()),
        Field::UByte(n) => Ok(n.into()),
        Field::UShort(n) => Ok(n.into()),
        Field::UInt(n) => Ok(n.into()),
        Field::ULong(n) => Ok(n.into()),
        Field::Float16(n) => number(n.into()),
        Field::Float(n) => number(n.into()),
        Field::Double(n) => number(n),
        Field::Str(text) => Ok(text.into()),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => {
            list.elements().iter().cloned().map(value).collect::<Result<_, _>>().map(Value::Array)
        }
        other => Err(format!("a column of this type is not read: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::data::{lines::Lines, read_pairs};

    /// A table of pyarrow's, and what it was made of.
    fn files(name: &str) -> (PathBuf, PathBuf) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tables").join(name);
        (path.with_extension("parquet"), path.with_extension("jsonl"))
    }

    #[test]
    fn a_table_says_what_its_lines_say() {
        for name in ["strings", "messages"] {
            let (table, text) = files(name);
            let pairs = |path| -> Vec<Pair> {
                read_pairs(path).unwrap().into_iter().map(|pair| Pair { place: None, ..pair }).collect()
            };
            assert_eq!(pairs(&table), pairs(&text), "{name}");
        }
    }

    #[test]
    fn errors_name_the_row() {
        let (table, text) = files("negative");
        let message = read_pairs(&table).unwrap_err().to_string();
        let end = "negative.parquet:2: weight: not a finite number from 0 up: -1.5";
        assert!(message.ends_with(end), "{message}");
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("x.parquet");
        std::fs::copy(&text, &table).unwrap();
        assert!(read_pairs(&table).unwrap_err().to_string().contains("x.parquet: "));
        assert_eq!(Lines::<Value>::open(&table).unwrap().count(), 2);
    }

    #[test]
    fn numbers_that_json_cannot_say_are_refused() {
        assert!(value(Field::Double(f64::NAN)).unwrap_err().contains("NaN"));
        assert!(value(Field::Float(f32::INFINITY)).is_err());
        assert!(value(Field::Date(1)).is_err());
        assert_eq!(value(Field::Float(0.5)).unwrap(), Value::from(0.5));
    }
}
