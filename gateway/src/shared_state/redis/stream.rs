//! The byte stream to Redis, plain or through TLS, and who we are on it.

use std::path::Path;
use std::sync::Arc;

use ::redis::{ProtocolVersion, RedisConnectionInfo};
use rustls::pki_types::ServerName;
use service_kit::tls::ClientTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{RedisConfig, RedisFault};

/// Plain or through TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Reads every file that a connection needs, so that a wrong one is told at the start.
pub(super) async fn check(config: &RedisConfig) -> Result<(), RedisFault> {
    login(config).await?;
    if let Some(tls) = &config.tls {
        connector(tls).await?;
        server_name(&config.host)?;
    }
    Ok(())
}

/// Connects.
pub(super) async fn open(config: &RedisConfig) -> Result<Box<dyn Stream>, RedisFault> {
    let plain = TcpStream::connect((config.host.as_str(), config.port)).await;
    let plain = plain.map_err(RedisFault::Connect)?;
    plain.set_nodelay(true).map_err(RedisFault::Connect)?;
    let Some(tls) = &config.tls else { return Ok(Box::new(plain)) };
    let connector = connector(tls).await?;
    let through = connector.connect(server_name(&config.host)?, plain).await;
    Ok(Box::new(through.map_err(RedisFault::Connect)?))
}

/// RESP3, with the credentials that the files hold now.
pub(super) async fn login(config: &RedisConfig) -> Result<RedisConnectionInfo, RedisFault> {
    let mut login = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    if let Some(user) = &config.user {
        login = login.set_username(user);
    }
    if let Some(path) = &config.password_file {
        let password = read(path).await?;
        let password = String::from_utf8(password);
        let unfit = |what| RedisFault::Unfit { path: path.clone(), what };
        let password = password.map_err(|_| unfit("is not UTF-8"))?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(unfit("holds no password"));
        }
        login = login.set_password(password);
    }
    Ok(login)
}

async fn read(path: &Path) -> Result<Vec<u8>, RedisFault> {
    let read = tokio::fs::read(path).await;
    read.map_err(|source| RedisFault::Unreadable { path: path.to_owned(), source })
}

async fn connector(tls: &ClientTls) -> Result<TlsConnector, RedisFault> {
    let tls = tls.clone();
    let read = tokio::task::spawn_blocking(move || tls.read()).await;
    let read = read.map_err(|error| RedisFault::Refused(Box::new(error)))?;
    Ok(TlsConnector::from(Arc::new(read.map_err(RedisFault::Tls)?)))
}

fn server_name(host: &str) -> Result<ServerName<'static>, RedisFault> {
    let name = ServerName::try_from(host.to_owned());
    name.map_err(|error| RedisFault::Refused(Box::new(error)))
}
