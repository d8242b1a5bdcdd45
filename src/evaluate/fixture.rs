//! The numbers of scikit-learn, SciPy and NumPy in `tests/fixtures/evaluate.json`.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What the script wrote for one module.
pub fn read<T: DeserializeOwned>(module: &str) -> T {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/evaluate.json"));
    let all: Value = serde_json::from_str(text).unwrap();
    serde_json::from_value(all[module].clone()).unwrap()
}

pub fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance, "{i}: {got} {want}");
    }
}
