//! Where file work runs.

use crate::error::ReplicatorError;

/// Where file work runs. A simulation that must repeat itself keeps it on its own thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskThreads {
    /// The runtime's threads for blocking work.
    #[default]
    Blocking,
    /// The calling thread.
    Inline,
}

impl DiskThreads {
    /// Runs file work to its end.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, ReplicatorError> + Send + 'static,
    ) -> Result<T, ReplicatorError> {
        match self {
            Self::Inline => work(),
            Self::Blocking => {
                tokio::task::spawn_blocking(work).await.unwrap_or(Err(ReplicatorError::Closed))
            }
        }
    }
}
