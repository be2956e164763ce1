//! Where a target is: the forms of a gRPC name, and the addresses behind one.
//!
//! Names are looked up by the system, on a thread that may block; nothing here connects.

use std::io;
use std::net::SocketAddr;

/// The most addresses of one name that are used; a service with more is balanced by something else.
pub const ADDRESSES_MAX: usize = 64;

/// A target's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Addresses, in the order written.
    Literal(Vec<SocketAddr>),
    /// A name and a port.
    Name(String, u16),
}

impl Place {
    /// `host:port`, `dns:host:port`, `dns:///host:port`, `ipv4:…`, `ipv6:…`, several of these with commas.
    pub fn parse(address: &str) -> Result<Place, String> {
        if let Some(rest) = address.strip_prefix("dns:") {
            let name = match rest.strip_prefix("//") {
                None => rest,
                Some(rest) => match rest.split_once('/') {
                    Some(("", name)) => name,
                    _ => return Err(format!("{address}: a name server of its own is not supported")),
                },
            };
            return endpoint(name).ok_or_else(|| no_endpoint(address));
        }
        if let Some(rest) = address.strip_prefix("ipv4:").or_else(|| address.strip_prefix("ipv6:")) {
            let parsed: Option<Vec<SocketAddr>> = rest.split(',').map(|part| part.parse().ok()).collect();
            return match parsed {
                Some(addresses) if addresses.len() <= ADDRESSES_MAX => Ok(Place::Literal(addresses)),
                Some(_) => Err(format!("{address}: more than {ADDRESSES_MAX} addresses")),
                None => Err(no_endpoint(address)),
            };
        }
        endpoint(address).ok_or_else(|| no_endpoint(address))
    }

    /// What the certificate must bear and the request names, for a connection to `address`.
    pub fn host(&self, address: SocketAddr) -> String {
        match self {
            Place::Name(host, _) => host.clone(),
            Place::Literal(_) => address.ip().to_string(),
        }
    }

    pub fn authority(&self, address: SocketAddr) -> String {
        match self {
            Place::Name(host, port) => format!("{host}:{port}"),
            Place::Literal(_) => address.to_string(),
        }
    }

    /// The addresses now. May take as long as the system lets it: the caller has a time-out.
    pub async fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = match self {
            Place::Literal(addresses) => return Ok(addresses.clone()),
            Place::Name(host, port) => (host.as_str(), *port),
        };
        let mut found: Vec<SocketAddr> = Vec::new();
        for address in tokio::net::lookup_host((host, port)).await? {
            if !found.contains(&address) && found.len() < ADDRESSES_MAX {
                found.push(address);
            }
        }
        if found.is_empty() {
            return Err(io::Error::other("no address"));
        }
        Ok(found)
    }
}

fn no_endpoint(address: &str) -> String {
    format!("{address} is no host:port, dns:///host:port, ipv4:address:port or ipv6:[address]:port")
}

fn endpoint(text: &str) -> Option<Place> {
    if let Ok(address) = text.parse() {
        return Some(Place::Literal(vec![address]));
    }
    let (host, port) = text.rsplit_once(':')?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if host.is_empty() || !host.bytes().all(legal) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Place::Name(host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let name = |host: &str, port| Ok(Place::Name(host.to_owned(), port));
        let literal =
            |texts: &[&str]| Ok(Place::Literal(texts.iter().map(|text| text.parse().unwrap()).collect()));
        assert_eq!(Place::parse("shop:50051"), name("shop", 50051));
        assert_eq!(Place::parse("dns:shop.example.:1"), name("shop.example.", 1));
        assert_eq!(Place::parse("dns:///shop:1"), name("shop", 1));
        assert_eq!(Place::parse("127.0.0.1:1"), literal(&["127.0.0.1:1"]));
        assert_eq!(Place::parse("dns:///127.0.0.1:1"), literal(&["127.0.0.1:1"]));
        assert_eq!(Place::parse("[::1]:1"), literal(&["[::1]:1"]));
        assert_eq!(Place::parse("ipv4:127.0.0.1:1,127.0.0.2:2"), literal(&["127.0.0.1:1", "127.0.0.2:2"]));
        assert_eq!(Place::parse("ipv6:[::1]:1"), literal(&["[::1]:1"]));
        for wrong in [
            "",
            "shop",
            "shop:",
            ":1",
            "shop:70000",
            "shop:x",
            "dns:///",
            "dns://8.8.8.8/shop:1",
            "unix:/a",
            "ipv4:shop:1",
            "http://shop:1",
            "::1:1",
            "a b:1",
        ] {
            assert!(Place::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names() {
        let address: SocketAddr = "127.0.0.9:5".parse().unwrap();
        let name = Place::parse("dns:///shop:50051").unwrap();
        assert_eq!((name.host(address), name.authority(address)), ("shop".into(), "shop:50051".into()));
        let literal = Place::parse("ipv4:127.0.0.9:5").unwrap();
        assert_eq!(
            (literal.host(address), literal.authority(address)),
            ("127.0.0.9".into(), "127.0.0.9:5".into())
        );
    }
}
