//! TLS to servers.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::TlsConnector;

use crate::tls::{Verify, client_config};
use crate::upstream::TlsSettings;

/// Opens TLS to the servers of one upstream.
#[derive(Clone)]
pub(super) struct Connector(pub(super) TlsConnector);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(settings: &TlsSettings) -> Result<Self, String> {
        let verify = if settings.verify { Verify::Name } else { Verify::Nothing };
        let mut config = client_config(verify, settings.ca.as_ref(), None)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}
