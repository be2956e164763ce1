//! gRPC statuses: their numbers, where they stand, and what stands for them where they are missing.
//!
//! Nothing here decides what a status means for an event.

use h2::Reason;

pub const OK: u32 = 0;
pub const CANCELLED: u32 = 1;
pub const UNKNOWN: u32 = 2;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const PERMISSION_DENIED: u32 = 7;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;
pub const UNAUTHENTICATED: u32 = 16;

/// How a call ended, beyond its status: what the Python side must know and no number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By the target's own words, or by what became of the way to it.
    Plain = 0,
    /// No connection, and none until somebody changes a certificate, a name or a scheme.
    Miswired = 1,
    /// The request cannot be sent, now or later.
    Illegal = 2,
    /// The request is larger than the target's limit; `message` has nothing, the size is the caller's to say.
    TooLarge = 3,
    /// By our side: a cancel, or the close.
    Cancelled = 4,
    /// The target said OK, and sent no whole message.
    NoMessage = 5,
}

/// An entry of the trailers, as Python gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Binary(Vec<u8>),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub kind: Kind,
    pub code: u32,
    pub message: String,
    /// The answer's message; empty unless the code is OK.
    pub reply: Vec<u8>,
    pub trailers: Vec<(String, Value)>,
}

impl Outcome {
    pub fn new(kind: Kind, code: u32, message: impl Into<String>) -> Self {
        Outcome { kind, code, message: message.into(), reply: Vec::new(), trailers: Vec::new() }
    }

    /// What became of the way to the target.
    pub fn failed(code: u32, message: impl Into<String>) -> Self {
        Outcome::new(Kind::Plain, code, message)
    }

    pub fn cancelled() -> Self {
        Outcome::new(Kind::Cancelled, CANCELLED, "")
    }
}

/// The status of an answer that has none of its own: a proxy has answered (gRPC's `http-grpc-status-mapping`).
pub fn of_http(status: u16) -> u32 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// The status of a stream that the peer reset (gRPC over HTTP/2, "Errors").
pub fn of_reset(reason: Reason) -> u32 {
    match reason {
        Reason::REFUSED_STREAM => UNAVAILABLE,
        Reason::CANCEL => CANCELLED,
        Reason::ENHANCE_YOUR_CALM => RESOURCE_EXHAUSTED,
        Reason::INADEQUATE_SECURITY => PERMISSION_DENIED,
        _ => INTERNAL,
    }
}

/// A `grpc-status`; None where it is no number. A number beyond the seventeen is handed on: it is UNKNOWN to
/// whoever reads it.
pub fn parse_code(value: &[u8]) -> Option<u32> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A `grpc-message`: percent-decoded; what is no escape and what is no UTF-8 stays readable.
pub fn parse_message(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| after.get(..2)).flatten().and_then(hex);
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| (digit as char).to_digit(16);
    Some((value(digits[0])? * 16 + value(digits[1])?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(parse_code(b"0"), Some(0));
        assert_eq!(parse_code(b"16"), Some(16));
        assert_eq!(parse_code(b"99"), Some(99));
        for wrong in [&b""[..], b"-1", b"+1", b"1 ", b"one", b"9999999999", b"\xff"] {
            assert_eq!(parse_code(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn messages() {
        assert_eq!(parse_message(b"plain"), "plain");
        assert_eq!(parse_message(b"a%20b%0Ac%c3%A9"), "a b\nc\u{e9}");
        assert_eq!(parse_message(b"100%"), "100%");
        assert_eq!(parse_message(b"%zz%4"), "%zz%4");
        assert_eq!(parse_message(b"%ff"), "\u{fffd}");
    }

    #[test]
    fn http_statuses() {
        let pairs = [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14)];
        for (status, code) in pairs {
            assert_eq!(of_http(status), code, "{status}");
        }
        for other in [200, 204, 301, 500, 501] {
            assert_eq!(of_http(other), UNKNOWN, "{other}");
        }
    }

    #[test]
    fn resets() {
        assert_eq!(of_reset(Reason::REFUSED_STREAM), UNAVAILABLE);
        assert_eq!(of_reset(Reason::CANCEL), CANCELLED);
        assert_eq!(of_reset(Reason::ENHANCE_YOUR_CALM), RESOURCE_EXHAUSTED);
        assert_eq!(of_reset(Reason::INADEQUATE_SECURITY), PERMISSION_DENIED);
        assert_eq!(of_reset(Reason::INTERNAL_ERROR), INTERNAL);
        assert_eq!(of_reset(Reason::NO_ERROR), INTERNAL);
    }
}
