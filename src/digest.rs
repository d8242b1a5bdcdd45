//! Digests as text.

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
