//! The outline of a body of JSON: how deep, how many objects, how long a list, before anything is made of it.
//!
//! An object of three bytes becomes a structure of hundreds. Counted here, it is refused before it costs memory. What is not
//! JSON is for the parser to refuse.

/// Counts of what stands outside of strings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outline {
    /// Arrays and objects in each other.
    pub depth: usize,
    /// Objects at any depth.
    pub objects: usize,
    /// Elements of the longest list that is a field of the whole.
    pub listed: usize,
}

impl Outline {
    /// Counts, in one pass without memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut outline = Self::default();
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        let (mut in_list, mut elements) = (false, 0);
        for byte in bytes {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = in_string,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'[' | b'{' => {
                    depth += 1;
                    outline.depth = outline.depth.max(depth);
                    outline.objects += usize::from(*byte == b'{');
                    if depth == 2 {
                        (in_list, elements) = (*byte == b'[', 1);
                    }
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' if in_list && depth == 2 => elements += 1,
                _ => {}
            }
            if in_list && depth == 2 {
                outline.listed = outline.listed.max(elements);
            }
        }
        outline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_strings_does_not_count() {
        let table = [
            ("", [0, 0, 0]),
            ("[[]]", [2, 0, 1]),
            (r#"{"a":[1,2,3],"b":[[1,2,3,4],{}]}"#, [3, 2, 3]),
            (r#"{"a":{"x":1,"y":[1,2,3]}}"#, [3, 2, 0]),
            (r#"{"a":["{,[","\"{,[","\\",1]}"#, [2, 1, 4]),
            (r#"["\\"{"#, [2, 1, 0]),
            ("}}]]{", [1, 1, 0]),
        ];
        for (json, [depth, objects, listed]) in table {
            assert_eq!(Outline::of(json.as_bytes()), Outline { depth, objects, listed }, "{json}");
        }
        assert_eq!(Outline::of("[],{},".repeat(40).as_bytes()).depth, 1);
    }
}
