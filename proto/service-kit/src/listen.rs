//! Binding a listener, with an error that says which port and how to change it; and accepting, which
//! no failure ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

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
        source: io::Error,
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
        if source.kind() == io::ErrorKind::AddrInUse {
            return ListenError::Taken { address, change_with };
        }
        ListenError::Refused { address, change_with, source }
    })
}

/// Until a failed accept is tried again: the system wakes nobody when descriptors are free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A listener that cannot accept says so once in this time.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Accepts connections, whatever happens: without file descriptors it waits until there are some,
/// and what waits meanwhile is in the system's backlog.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    warned: Option<Instant>,
}

impl Acceptor {
    /// Over a bound listener.
    #[must_use]
    pub const fn new(listener: TcpListener) -> Self {
        Self { listener, warned: None }
    }

    /// The next connection, without Nagle's delay, and its peer. Dropped while it waits, it loses
    /// no connection.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = self.listener.accept().await;
            match accepted.and_then(|(stream, peer)| {
                stream.set_nodelay(true)?;
                Ok((stream, peer))
            }) {
                Ok(accepted) => return accepted,
                Err(error) if is_one_connections(&error) => {
                    tracing::debug!(%error, "a connection broke off at once");
                }
                Err(error) => {
                    self.warn(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn warn(&mut self, error: &io::Error) {
        if self.warned.is_some_and(|warned| warned.elapsed() < WARN_EVERY) {
            return;
        }
        self.warned = Some(Instant::now());
        let address = self.listener.local_addr().ok();
        tracing::warn!(%error, ?address, "connections cannot be accepted and wait");
    }
}

/// Whether an accept failed for that connection alone (accept(2)), so that the next one may be
/// asked for at once.
fn is_one_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidInput
    )
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

    #[test]
    fn one_connection_s_failure_is_told_from_a_lack_of_descriptors() {
        assert!(is_one_connections(&io::ErrorKind::ConnectionAborted.into()));
        let many = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert!(!is_one_connections(&many));
    }
}
