//! The trace that a request belongs to, by W3C Trace Context: taken up from its caller, or begun here.
//!
//! <https://www.w3.org/TR/trace-context/>, whose version is 00; of a later one what 00 knows is read, as it asks for. What is
//! not valid is passed over, since a request is no worse for it.

use std::fmt;

use axum::{extract::Request, http::HeaderMap};
use tracing::{Span, field::display};

/// The header with the caller's trace and span.
const TRACEPARENT: &str = "traceparent";
/// Characters of a version, two ids and flags, with the hyphens between them.
const LENGTH: usize = 55;
/// A version that is forbidden.
const NO_VERSION: u128 = 0xff;
/// The flag of a caller that records its own span.
const SAMPLED: u128 = 1;

/// A trace, by 16 bytes that are not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// A span, by 8 bytes that are not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a caller says of its own span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The trace that it is in.
    pub trace: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// Whether it is recorded.
    pub sampled: bool,
}

/// A span of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// The trace that it is in.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
}

impl Caller {
    /// Reads the header, which must be there once.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        match (all.next(), all.next()) {
            (Some(value), None) => Self::parse(value.to_str().ok()?),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut fields = known.split('-');
        let mut next = |digits| hexadecimal(fields.next()?, digits);
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let is_readable = match version {
            0 => more.is_empty(),
            NO_VERSION => false,
            _ => more.is_empty() || more.starts_with('-'),
        };
        let span = u64::try_from(span).ok()?;
        let sampled = flags & SAMPLED != 0;
        (is_readable && trace != 0 && span != 0).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            sampled,
        })
    }
}

/// Reads exactly so many digits, with small letters alone.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_right = text.len() == digits && text.bytes().all(is_digit);
    is_right.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl Here {
    /// A new span below the caller's, or in a trace of its own.
    fn below(caller: Option<Caller>) -> Self {
        let trace = caller.map_or_else(|| TraceId(rand::random::<u128>().max(1)), |caller| caller.trace);
        Self { trace, span: SpanId(rand::random::<u64>().max(1)) }
    }
}

/// Says in a request's span which trace it is in, and under which id; the fields are `trace_id` and `span_id`. Where spans are
/// exported, this one is the server's, of the route's pattern.
#[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "only what is exported has a name"))]
pub fn begin(span: &Span, request: &Request, route: &str) {
    let caller = Caller::of(request.headers());
    let here = Here::below(caller);
    #[cfg(feature = "otlp")]
    let here = super::otlp::begin(span, caller, request, route).unwrap_or(here);
    let Here { trace, span: id } = here;
    span.record("trace_id", display(trace)).record("span_id", display(id));
}

/// Says in a request's span how it was answered, where spans are exported.
#[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "a line of the log says it"))]
pub fn end(span: &Span, status: u16) {
    #[cfg(feature = "otlp")]
    super::otlp::end(span, status);
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (TRACEPARENT.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn a_caller_is_read_as_the_standard_says() {
        let caller = |sampled| {
            let (trace, span) = (TraceId(0x0af7651916cd43dd8448eb211c80319c), SpanId(0xb7ad6b7169203331));
            Some(Caller { trace, span, sampled })
        };
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let table = [
            (VALID.to_owned(), caller(true)),
            (format!("00-{ids}-00"), caller(false)),
            (format!("00-{ids}-02"), caller(false)),
            (format!("00-{ids}-ff"), caller(true)),
            // A later version may have more behind a hyphen.
            (format!("cc-{ids}-01"), caller(true)),
            (format!("cc-{ids}-01-what-the-future-brings"), caller(true)),
            (format!("cc-{ids}-01-"), caller(true)),
            (format!("cc-{ids}-01.no"), None),
            (format!("cc-{ids}-010"), None),
            (format!("00-{ids}-01-no"), None),
            (format!("00-{ids}-01-"), None),
            (format!("ff-{ids}-01"), None),
            (VALID.to_uppercase(), None),
            (format!("0-{ids}-01"), None),
            (format!("000-{ids}-1"), None),
            (format!("00-{ids}-1"), None),
            (format!("00-{ids}"), None),
            (format!("00-{ids}-0g"), None),
            (format!("0x-{ids}-01"), None),
            (format!("+0-{ids}-01"), None),
            (format!("00_{ids}-01"), None),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), None),
            (format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16)), None),
            ("00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01".to_owned(), None),
            (String::new(), None),
            (format!("00-{}", "é".repeat(26)), None),
        ];
        for (text, want) in table {
            assert_eq!(Caller::parse(&text), want, "{text}");
        }
    }

    #[test]
    fn a_header_that_is_there_twice_is_none() {
        assert!(Caller::of(&headers(&[VALID])).is_some());
        assert_eq!(Caller::of(&headers(&[])), None);
        assert_eq!(Caller::of(&headers(&[VALID, VALID])), None);
    }

    #[test]
    fn a_span_of_ours_is_in_the_callers_trace_and_another() {
        let caller = Caller::parse(VALID);
        let (one, two) = (Here::below(caller), Here::below(caller));
        assert_eq!((one.trace, two.trace), (caller.unwrap().trace, caller.unwrap().trace));
        assert!(one.span != two.span && one.span != caller.unwrap().span);
        let (one, two) = (Here::below(None), Here::below(None));
        assert!(one.trace != two.trace && one.span != two.span);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., flags: u8, version in 0u8..255) {
            let text = format!("{version:02x}-{}-{}-{flags:02x}", TraceId(trace), SpanId(span));
            let caller = Caller { trace: TraceId(trace), span: SpanId(span), sampled: flags % 2 == 1 };
            prop_assert_eq!(Caller::parse(&text), Some(caller));
        }

        #[test]
        fn nothing_but_its_own_form_is_read(text in "\\PC{0,60}|[0-9a-f-]{55}") {
            if let Some(Caller { trace, span, .. }) = Caller::parse(&text) {
                let ids = format!("-{trace}-{span}-");
                prop_assert_eq!(&text[2..53], ids.as_str());
            }
        }
    }
}
