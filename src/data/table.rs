//! Preference pairs in Parquet files.
//!
//! A row is read as the JSON object that it stands for, so that both kinds of file follow the same
//! rules; only the columns that say something about a pair are decoded.

use std::{fs::File, path::Path, sync::Arc};

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
use crate::{Error, Result};

/// Reads every row; errors count rows from 1.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    let file = File::open(path).map_err(Error::io(path))?;
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
    use std::{io::Cursor, sync::Arc};

    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::data::{lines::Lines, read_pairs};

    /// Writes lines of JSON as a Parquet file and, beside it, as they are.
    fn files(lines: &[&str]) -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (table, text) = (folder.path().join("x.parquet"), folder.path().join("x.jsonl"));
        let json = lines.join("\n");
        std::fs::write(&text, &json).unwrap();
        let (schema, _) = arrow_json::reader::infer_json_schema(Cursor::new(&json), None).unwrap();
        let schema = Arc::new(schema);
        let batches = arrow_json::ReaderBuilder::new(schema.clone()).build(Cursor::new(&json)).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&table).unwrap(), schema, None).unwrap();
        for batch in batches {
            writer.write(&batch.unwrap()).unwrap();
        }
        writer.close().unwrap();
        (folder, table, text)
    }

    #[test]
    fn a_table_says_what_its_lines_say() {
        let strings = [
            r#"{"prompt":"p","chosen":"c é","rejected":"r","score":[1,2],"margin":0.5}"#,
            r#"{"prompt":"q","chosen":"c","rejected":"","weight":2}"#,
        ];
        let messages = [
            r#"{"prompt":[{"role":"system","content":"s"},{"role":"user","content":"p"}],"source":"x",
                "chosen":[{"role":"assistant","content":"c"}],"rejected":[{"role":"assistant","content":"r"}]}"#,
            r#"{"prompt":[{"role":"user","content":"p"}],
                "chosen":[{"role":"assistant","content":"c"}],"rejected":[{"role":"assistant","content":"r"}]}"#,
        ];
        for lines in [strings.map(str::to_owned), messages.map(|line| line.replace('\n', ""))] {
            let (_folder, table, text) = files(&[&lines[0], &lines[1]]);
            let pairs = |path| -> Vec<Pair> {
                read_pairs(path).unwrap().into_iter().map(|pair| Pair { place: None, ..pair }).collect()
            };
            assert_eq!(pairs(&table), pairs(&text));
        }
    }

    #[test]
    fn errors_name_the_row() {
        let (_folder, table, text) = files(&[
            r#"{"chosen":"c","rejected":"r","weight":1.5}"#,
            r#"{"chosen":"c","rejected":"r","weight":-1.5}"#,
        ]);
        let message = read_pairs(&table).unwrap_err().to_string();
        assert!(message.ends_with("x.parquet:2: weight: not a finite number from 0 up: -1.5"), "{message}");
        std::fs::rename(&text, &table).unwrap();
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
