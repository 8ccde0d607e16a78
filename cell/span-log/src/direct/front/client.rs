//! One collector, as the front asks it.

use std::time::Duration;

use proto::v1;
use proto::v1::collector_log_client::CollectorLogClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::super::DirectError;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for records.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the tail: gateways wait for it.
const TAIL_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a word of how a collector is, beyond what it may wait for news itself: it may have
/// to write down what it was told.
const WORD_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for what costs the collector a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 windows.
const WINDOW_BYTES: u32 = 8 << 20;
/// Two of the largest batches (64 MiB) and what is around them.
const MESSAGE_BYTES_MAX: usize = 160 << 20;

/// Why a collector did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It did not answer, or not now.
    Away(String),
    /// It is not whom the front takes it for.
    Other(String),
    /// It did not manage this in time or in size: of the rest nothing is said.
    TooMuch(String),
    /// A later front has taken over.
    Fenced,
}

impl Refusal {
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Away(reason) | Self::Other(reason) | Self::TooMuch(reason) => reason.clone(),
            Self::Fenced => "a later front of the cell has taken over".to_owned(),
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let code = status.code();
        if code == Code::PermissionDenied {
            return Self::Fenced;
        }
        if code == Code::FailedPrecondition {
            return Self::Other(status.message().to_owned());
        }
        if code == Code::Cancelled || code == Code::DeadlineExceeded {
            return Self::TooMuch("it did not answer in time".to_owned());
        }
        if code == Code::OutOfRange || code == Code::ResourceExhausted {
            return Self::TooMuch(status.message().to_owned());
        }
        Self::Away(status.message().to_owned())
    }
}

/// A collector by its address.
#[derive(Clone, Debug)]
pub(super) struct CollectorClient {
    pub(super) url: String,
    client: CollectorLogClient<Channel>,
}

impl CollectorClient {
    /// Connects when it is first asked.
    pub(super) fn new(url: &str) -> Result<Self, DirectError> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| {
            DirectError::File { file: "direct.collectors".to_owned(), reason: error.to_string() }
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .connect_lazy();
        let client = CollectorLogClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { url: url.to_owned(), client })
    }

    pub(super) async fn watch(
        &self,
        request: v1::WatchLogRequest,
    ) -> Result<v1::LogState, Refusal> {
        let wait = Duration::from_millis(request.at_most_millis.into());
        let request = timed(request, wait.saturating_add(WORD_TIMEOUT));
        Ok(self.client.clone().watch_log(request).await?.into_inner())
    }

    pub(super) async fn register(
        &self,
        request: v1::RegisterCollectorRequest,
    ) -> Result<v1::LogState, Refusal> {
        let request = timed(request, WRITE_TIMEOUT);
        Ok(self.client.clone().register_collector(request).await?.into_inner())
    }

    pub(super) async fn retire(
        &self,
        request: v1::RetireCollectorRequest,
    ) -> Result<v1::LogState, Refusal> {
        let request = timed(request, WRITE_TIMEOUT);
        Ok(self.client.clone().retire_collector(request).await?.into_inner())
    }

    pub(super) async fn read(
        &self,
        request: v1::ReadLogRequest,
    ) -> Result<v1::ReadLogResponse, Refusal> {
        let request = timed(request, READ_TIMEOUT);
        Ok(self.client.clone().read_log(request).await?.into_inner())
    }

    pub(super) async fn find(&self, request: v1::FindOffsetRequest) -> Result<u64, Refusal> {
        let request = timed(request, READ_TIMEOUT);
        Ok(self.client.clone().find_offset(request).await?.into_inner().offset)
    }

    pub(super) async fn tail(
        &self,
        request: v1::ReadTailRequest,
    ) -> Result<v1::ReadTailResponse, Refusal> {
        let request = timed(request, TAIL_TIMEOUT);
        Ok(self.client.clone().read_tail(request).await?.into_inner())
    }

    pub(super) async fn forget(
        &self,
        request: v1::ForgetLostRecordsRequest,
    ) -> Result<u64, Refusal> {
        let request = timed(request, WRITE_TIMEOUT);
        Ok(self.client.clone().forget_lost_records(request).await?.into_inner().forgotten)
    }
}

fn timed<T>(message: T, time: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}
