//! Logging of a process: `tracing` to standard error, as text or JSON.
//!
//! Must never log a span's content, nor be started by a library.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::TelemetryConfig;
use crate::config::listen::LogFormat;

/// Why logging was not started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error("{0}")]
    Level(String),
    /// Logging was started before.
    #[error("logging runs already")]
    Running(#[source] tracing_subscriber::util::TryInitError),
}

impl TelemetryError {
    /// Whether the same call may succeed later: never.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Level(_) | Self::Running(_) => false,
        }
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// When the level is not one, or logging runs already.
pub fn init(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let filter = filter_of(&config.level).map_err(TelemetryError::Level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(is_terminal).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(TelemetryError::Running)
}

/// Checks a level before anything is started; the error says what would be right.
///
/// # Errors
/// When it is not a level.
pub fn check_level(level: &str) -> Result<(), String> {
    filter_of(level).map(|_| ())
}

fn filter_of(level: &str) -> Result<EnvFilter, String> {
    let right = "error, warn, info, debug or trace, or directives such as info,collector=debug";
    // A lone unknown word would be taken for the name of a module, and nothing would be logged.
    let is_word = !level.contains(['=', ',']);
    if is_word && level.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
        return Err(format!("`{level}` is not a level: {right}"));
    }
    EnvFilter::try_new(level).map_err(|_| format!("`{level}` is not a level: {right}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_known_and_words_are_not() {
        for good in ["info", "debug", "info,collector=debug", "off"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["loud", "info,collector=loud"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}
