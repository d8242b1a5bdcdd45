//! Where the prior precisions come from: the evidence, or numbers given by hand.

use std::{fmt, str::FromStr};

use super::BlockKind;

/// How the prior precision of each kind of block is chosen; `evidence`, `NUMBER` or `A=..,B=..,head=..` as text.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Prior {
    /// By maximising the evidence, for each kind.
    #[default]
    Evidence,
    /// One number for every kind.
    Number(f64),
    /// A number for each kind.
    PerKind { a: f64, b: f64, head: f64 },
}

impl Prior {
    /// The number given for a kind; `None` where the evidence decides.
    pub fn given(&self, kind: BlockKind) -> Option<f64> {
        match (self, kind) {
            (Self::Evidence, _) => None,
            (Self::Number(lambda), _) => Some(*lambda),
            (Self::PerKind { a, .. }, BlockKind::A) => Some(*a),
            (Self::PerKind { b, .. }, BlockKind::B) => Some(*b),
            (Self::PerKind { head, .. }, BlockKind::Head) => Some(*head),
        }
    }
}

impl FromStr for Prior {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "evidence" {
            return Ok(Self::Evidence);
        }
        if !text.contains('=') {
            return positive(text).map(Self::Number);
        }
        let mut given = [None; BlockKind::ALL.len()];
        for assignment in text.split(',') {
            let (name, number) = assignment
                .split_once('=')
                .ok_or_else(|| format!("`{assignment}` is not of the form KIND=NUMBER"))?;
            let kind = BlockKind::ALL.iter().position(|kind| kind.to_string() == name.trim());
            let kind = kind.ok_or_else(|| format!("unknown kind of block: `{name}` (hint: A, B or head)"))?;
            let lambda = positive(number.trim()).map_err(|e| format!("{name}: {e}"))?;
            if given[kind].replace(lambda).is_some() {
                return Err(format!("`{name}` is given twice"));
            }
        }
        match given {
            [Some(a), Some(b), Some(head)] => Ok(Self::PerKind { a, b, head }),
            _ => {
                let missing = BlockKind::ALL.iter().zip(given).filter(|(_, lambda)| lambda.is_none());
                let missing: Vec<_> = missing.map(|(kind, _)| kind.to_string()).collect();
                Err(format!("no prior precision for {}", missing.join(", ")))
            }
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(lambda) if lambda.is_finite() && lambda > 0.0 => Ok(lambda),
        Ok(lambda) => Err(format!("a prior precision is finite and positive, not {lambda}")),
        Err(_) => {
            Err(format!("`{text}` is not a number (hint: `evidence`, a number, or `A=..,B=..,head=..`)"))
        }
    }
}

impl fmt::Display for Prior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evidence => f.write_str("evidence"),
            Self::Number(lambda) => write!(f, "{lambda}"),
            Self::PerKind { a, b, head } => write!(f, "A={a},B={b},head={head}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_forms() {
        let cases = [
            ("evidence", Prior::Evidence),
            ("2.5", Prior::Number(2.5)),
            ("B=2,A=1e-1,head=1000", Prior::PerKind { a: 0.1, b: 2.0, head: 1000.0 }),
            ("A=1, B=2, head=3", Prior::PerKind { a: 1.0, b: 2.0, head: 3.0 }),
        ];
        for (text, prior) in cases {
            assert_eq!(text.parse(), Ok(prior), "{text}");
            assert_eq!(prior.to_string().parse(), Ok(prior), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            ("evidense", "`evidense` is not a number (hint: `evidence`, a number, or `A=..,B=..,head=..`)"),
            ("-1", "a prior precision is finite and positive, not -1"),
            ("NaN", "a prior precision is finite and positive, not NaN"),
            ("A=1,B=2", "no prior precision for head"),
            ("A=1,A=2,head=3", "`A` is given twice"),
            ("A=1,C=2", "unknown kind of block: `C` (hint: A, B or head)"),
            ("A=0,B=1,head=1", "A: a prior precision is finite and positive, not 0"),
            ("A=1,B", "`B` is not of the form KIND=NUMBER"),
        ];
        for (text, message) in cases {
            assert_eq!(text.parse::<Prior>(), Err(message.into()), "{text}");
        }
    }
}
