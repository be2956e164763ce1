//! TLS to a target: rustls with ring, HTTP/2 by ALPN, this side's certificate where it has one.
//!
//! Nothing here reads files: PEM comes in, and no message says more of it than what is wrong.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

const HTTP2: &[u8] = b"h2";

/// Trusts `roots`, and bears `identity` (certificate chain, key) for mutual TLS.
pub fn config(roots: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Arc<ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(roots)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the trusted certificates are no PEM: {error}"))?;
    // A bundle may hold a few that are no trust anchors; one that holds none is a mistake.
    let (taken, _) = store.add_parsable_certificates(certificates);
    if taken == 0 {
        return Err("the trusted certificates hold none that can be used".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
                .collect::<Result<_, _>>()
                .map_err(|error| format!("our certificate is no PEM: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "our key is no PEM key".to_owned())?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("our certificate and key cannot be used: {error}"))?
        }
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

/// Whether the peer speaks HTTP/2: without its word for it, it may be anything that speaks TLS.
pub fn speaks_http2(alpn: Option<&[u8]>) -> bool {
    alpn == Some(HTTP2)
}

/// What TLS says of a failure; None where the socket failed, as that of a server that restarts would.
pub fn refusal(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<rustls::Error>().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused() {
        for roots in
            [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            assert!(config(roots, None).is_err());
        }
    }

    #[test]
    fn a_closed_socket_is_no_refusal() {
        assert_eq!(refusal(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
        let tls = io::Error::other(rustls::Error::NoApplicationProtocol);
        assert!(refusal(&tls).is_some());
    }
}
