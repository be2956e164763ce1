//! Metadata on its way out and in: what is legal, what is coded, and the call's own headers.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

use crate::status::Value;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Base64 without padding, as most write it; read with it or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// gRPC's timeouts have at most eight digits.
const TIMEOUT_MAX: u128 = 99_999_999;

/// An entry of a call's metadata, checked and coded.
pub type Entry = (HeaderName, HeaderValue);

/// A name that gRPC takes: lower case, and none of HTTP/2's own.
pub fn name(text: &str) -> Result<HeaderName, String> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if text.is_empty() || !text.bytes().all(legal) {
        return Err(format!("{text:?} is no metadata name"));
    }
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is no metadata name"))
}

/// A value of a name that does not end in `-bin`: printable ASCII.
pub fn text(name: &HeaderName, value: &str) -> Result<HeaderValue, String> {
    if name.as_str().ends_with("-bin") {
        return Err(format!("{name:?} takes bytes, not text"));
    }
    if !value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(format!("the value of {name:?} is not printable ASCII"));
    }
    HeaderValue::from_str(value).map_err(|_| format!("the value of {name:?} is no header's"))
}

/// A value of a name that ends in `-bin`.
pub fn binary(name: &HeaderName, value: &[u8]) -> Result<HeaderValue, String> {
    if !name.as_str().ends_with("-bin") {
        return Err(format!("{name:?} takes text, not bytes"));
    }
    HeaderValue::from_str(&BASE64.encode(value)).map_err(|_| format!("the value of {name:?} is no header's"))
}

/// What is hardly ever the same for two calls.
const OF_ONE_CALL: [&str; 4] = ["pelton-delivery-id", "pelton-offset", "pelton-key-bin", "traceparent"];

/// What many calls bear: what gRPC itself says, and the entries they have in common. Made once, and copied
/// for each call, which costs a fraction of making it.
pub struct Common {
    map: HeaderMap,
    timeout: Duration,
}

impl Common {
    pub fn new(entries: &[Entry], timeout: Duration) -> Self {
        let mut map = HeaderMap::with_capacity(entries.len() + 5);
        map.insert(header::TE, HeaderValue::from_static("trailers"));
        map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        map.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("pelton-native/", env!("CARGO_PKG_VERSION"))),
        );
        map.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"));
        map.insert(GRPC_TIMEOUT, grpc_timeout(timeout));
        append(&mut map, entries, false);
        Common { map, timeout }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Everything a request bears. `first` on its connection.
    pub fn headers(&self, own: &[Entry], timeout: Duration, first: bool) -> HeaderMap {
        let mut map = self.map.clone();
        append(&mut map, own, !first);
        if timeout != self.timeout {
            map.insert(GRPC_TIMEOUT, grpc_timeout(timeout));
        }
        map
    }
}

/// Adds entries. None of them may overrule what gRPC itself says.
///
/// HPACK keeps both ends a table of what was sent. What is of one call alone would push out of it all that
/// comes again, and be looked for in it in vain, value by value. So after the first call, which leaves the
/// names there, its values are `apart`: written as never indexed (RFC 7541, 6.2.3).
fn append(map: &mut HeaderMap, entries: &[Entry], apart: bool) {
    for (name, value) in entries {
        if [header::TE, header::CONTENT_TYPE, header::USER_AGENT].contains(name)
            || [GRPC_ACCEPT_ENCODING, GRPC_TIMEOUT].contains(name)
        {
            continue;
        }
        let mut value = value.clone();
        value.set_sensitive(apart && OF_ONE_CALL.contains(&name.as_str()));
        map.append(name.clone(), value);
    }
}

/// Rounded up, so that the server never gives up before we do.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    let units = [(1_000_000, 'm'), (1_000_000_000, 'S'), (60_000_000_000, 'M'), (3_600_000_000_000, 'H')];
    let nanos = timeout.as_nanos().max(1);
    let (count, unit) = units
        .into_iter()
        .map(|(unit_nanos, unit)| (nanos.div_ceil(unit_nanos), unit))
        .find(|(count, _)| *count <= TIMEOUT_MAX)
        .unwrap_or((TIMEOUT_MAX, 'H'));
    HeaderValue::from_str(&format!("{count}{unit}")).expect("digits and a letter")
}

/// What an answer's trailers say besides the status; values that cannot be read are left out.
pub fn trailers(map: &HeaderMap) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, value) in map {
        if name == GRPC_STATUS || name == GRPC_MESSAGE || name == header::CONTENT_TYPE {
            continue;
        }
        let name = name.as_str();
        if name.ends_with("-bin") {
            // Several values may have been joined with commas on the way.
            for part in value.as_bytes().split(|byte| *byte == b',') {
                if let Ok(bytes) = BASE64.decode(part.trim_ascii()) {
                    found.push((name.to_owned(), Value::Binary(bytes)));
                }
            }
        } else if let Ok(text) = value.to_str() {
            found.push((name.to_owned(), Value::Text(text.to_owned())));
        }
    }
    found
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Xorshift: the same bytes every time, and no library for them.
    pub struct Random(pub u64);

    impl Random {
        pub fn draw(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        pub fn below(&mut self, end: usize) -> usize {
            (self.draw() % end as u64) as usize
        }
    }

    #[test]
    fn names() {
        for legal in ["k", "pelton-key-bin", "a_b.c-9"] {
            assert_eq!(name(legal).unwrap().as_str(), legal);
        }
        for wrong in ["", "Upper", "bad key", ":path", "\u{e9}", "a\n", "a/b"] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn values() {
        let (plain, coded) = (name("k").unwrap(), name("k-bin").unwrap());
        assert_eq!(text(&plain, "a value ~").unwrap(), "a value ~");
        for wrong in ["two\nlines", "\u{e9}", "\0", "tab\t", "\x7f"] {
            assert!(text(&plain, wrong).is_err(), "{wrong:?}");
        }
        assert!(text(&coded, "text").is_err());
        assert!(binary(&plain, b"bytes").is_err());
        assert_eq!(binary(&coded, b"\xff\0").unwrap(), "/wA");
    }

    #[test]
    fn timeouts() {
        let written = |timeout| grpc_timeout(timeout).to_str().unwrap().to_owned();
        assert_eq!(written(Duration::ZERO), "1m");
        assert_eq!(written(Duration::from_micros(1_001)), "2m");
        assert_eq!(written(Duration::from_secs(10)), "10000m");
        assert_eq!(written(Duration::from_millis(99_999_999)), "99999999m");
        assert_eq!(written(Duration::from_millis(100_000_001)), "100001S");
        assert_eq!(written(Duration::MAX), "99999999H");
    }

    #[test]
    fn our_own_are_not_overruled() {
        let entries = ["te", "content-type", "user-agent", "grpc-timeout", "kept"]
            .map(|word| (name(word).unwrap(), HeaderValue::from_static("forged")));
        let second = Duration::from_secs(1);
        for map in [
            Common::new(&entries, second).headers(&[], second, true),
            Common::new(&[], second).headers(&entries, second, true),
        ] {
            let forged: Vec<_> =
                map.iter().filter(|(_, value)| *value == "forged").map(|(name, _)| name).collect();
            assert_eq!(forged, ["kept"]);
            assert_eq!(map.len(), 6);
        }
    }

    #[test]
    fn own_entries_come_beside_those_in_common() {
        let entry = |value| [(name("k").unwrap(), HeaderValue::from_static(value))];
        let common = Common::new(&entry("a"), Duration::from_secs(1));
        let told = |timeout| common.headers(&entry("b"), timeout, false);
        let all: Vec<_> = told(Duration::from_secs(1)).get_all("k").iter().cloned().collect();
        assert_eq!(all, ["a", "b"]);
        assert_eq!(told(Duration::from_secs(1))[GRPC_TIMEOUT], "1000m");
        assert_eq!(told(Duration::from_millis(7))[GRPC_TIMEOUT], "7m");
        assert_eq!(common.headers(&[], Duration::from_secs(1), false).get_all("k").iter().count(), 1);
    }

    #[test]
    fn what_is_of_one_call_stays_out_of_the_table_but_for_its_name() {
        let entries = ["pelton-offset", "pelton-topic"]
            .map(|word| (name(word).unwrap(), HeaderValue::from_static("17")));
        let second = Duration::from_secs(1);
        let map = |first| Common::new(&[], second).headers(&entries, second, first);
        assert!(!map(true)["pelton-offset"].is_sensitive());
        assert!(map(false)["pelton-offset"].is_sensitive());
        assert!(!map(false)["pelton-topic"].is_sensitive());
    }

    #[test]
    fn trailers_are_decoded() {
        let mut map = HeaderMap::new();
        map.append("grpc-status", HeaderValue::from_static("0"));
        map.append("grpc-message", HeaderValue::from_static("x"));
        map.append("pelton-verdict", HeaderValue::from_static("ack"));
        map.append("pelton-verdict", HeaderValue::from_static("drop"));
        map.append("a-bin", HeaderValue::from_static("/wA=,  aGk"));
        map.append("a-bin", HeaderValue::from_static("!"));
        map.append("odd", HeaderValue::from_bytes(b"\xff").unwrap());
        let text = |name: &str, value: &str| (name.to_owned(), Value::Text(value.to_owned()));
        let binary = |value: &[u8]| ("a-bin".to_owned(), Value::Binary(value.to_vec()));
        assert_eq!(
            trailers(&map),
            [text("pelton-verdict", "ack"), text("pelton-verdict", "drop"), binary(b"\xff\0"), binary(b"hi")]
        );
    }

    /// Whatever bytes come as names and values: coded or refused, and what was coded comes back the same.
    #[test]
    fn anything_at_all() {
        let mut random = Random(0xfeed);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.below(12)).map(|_| random.draw() as u8).collect();
            let lossy = String::from_utf8_lossy(&bytes).into_owned();
            let _ = name(&lossy);
            let _ = crate::status::parse_message(&bytes);
            let _ = crate::status::parse_code(&bytes);
            let coded = name("k-bin").unwrap();
            let mut map = HeaderMap::new();
            map.append(coded.clone(), binary(&coded, &bytes).unwrap());
            assert_eq!(trailers(&map), [("k-bin".to_owned(), Value::Binary(bytes.clone()))]);
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                map.append(coded, value.clone());
                map.append(GRPC_STATUS, value.clone());
                map.append("k", value);
                let _ = trailers(&map);
            }
        }
    }
}
