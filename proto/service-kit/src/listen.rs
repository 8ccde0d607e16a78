//! Binding a listener, with an error that says which port and how to change it.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Why an address was not bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error(
        "port {} on {} is taken: end the process that listens there, or choose another port with \
         {change_with}", address.port(), address.ip()
    )]
    Taken {
        /// The address.
        address: SocketAddr,
        /// The flag or key that changes it.
        change_with: String,
    },
    /// The system refuses.
    #[error("cannot listen on {address}; choose another address with {change_with}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// The flag or key that changes it.
        change_with: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
}

impl ListenError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Taken { .. } => true,
            Self::Refused { .. } => false,
        }
    }
}

/// Binds an address; `change_with` names the flag or key by which a person changes it.
///
/// # Errors
/// When the port is taken, or the system refuses.
pub async fn bind(address: SocketAddr, change_with: &str) -> Result<TcpListener, ListenError> {
    let change_with = change_with.to_owned();
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == std::io::ErrorKind::AddrInUse {
            return ListenError::Taken { address, change_with };
        }
        ListenError::Refused { address, change_with, source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_itself_and_the_way_out() {
        let held = bind("127.0.0.1:0".parse().unwrap(), "--base-port").await.unwrap();
        let address = held.local_addr().unwrap();
        let error = bind(address, "--base-port").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&address.port().to_string()), "{text}");
        assert!(text.contains("--base-port"), "{text}");
        assert!(error.is_retryable());
    }
}
