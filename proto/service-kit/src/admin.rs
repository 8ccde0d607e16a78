//! What every process shows to its operators: `/livez`, `/readyz` with named checks, `/metrics`.
//!
//! Must never take part in a process's own work: nothing here is waited for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

/// The media type of what `prometheus-client` writes (OpenMetrics 1.0).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Named conditions; a process is ready while all of them hold.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
    probes: Arc<Mutex<BTreeMap<&'static str, Probe>>>,
    warnings: Arc<Mutex<BTreeMap<&'static str, Warning>>>,
}

/// Looks whether a condition holds, or says why not. Cheap: it runs with every question.
#[derive(Clone)]
struct Probe(Arc<dyn Fn() -> Result<(), String> + Send + Sync>);

impl fmt::Debug for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Probe")
    }
}

/// Says what a person should know, if there is something. Cheap, as a probe.
#[derive(Clone)]
struct Warning(Arc<dyn Fn() -> Option<String> + Send + Sync>);

impl fmt::Debug for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Warning")
    }
}

/// One named condition.
#[derive(Clone, Debug)]
pub struct ReadyCheck {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition, which does not hold yet.
    #[must_use]
    pub fn check(&self, name: &'static str) -> ReadyCheck {
        let check = ReadyCheck { name, readiness: self.clone() };
        check.fail("starting");
        check
    }

    /// Adds a condition that is looked at whenever somebody asks. It must answer at once.
    pub fn probe(
        &self,
        name: &'static str,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.insert(name, Probe(Arc::new(probe)));
    }

    /// Adds a word to whoever reads the report, which changes nothing of whether the process is
    /// ready. It must answer at once.
    pub fn warn(
        &self,
        name: &'static str,
        warning: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.insert(name, Warning(Arc::new(warning)));
    }

    /// One line a warning: `warning: what`.
    fn warnings(&self) -> String {
        let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = warnings.values().filter_map(|warning| (warning.0)());
        said.map(|text| format!("warning: {text}\n")).collect()
    }

    /// Whether all conditions hold.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state().values().all(Result::is_ok)
    }

    /// One line a condition: `name: ok`, or `name: why not`; then one a warning.
    #[must_use]
    pub fn report(&self) -> String {
        report(&self.state()) + &self.warnings()
    }

    /// Every condition as it is now.
    fn state(&self) -> BTreeMap<&'static str, Result<(), String>> {
        let mut state = self.lock().clone();
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        state.extend(probes.into_iter().map(|(name, probe)| (name, (probe.0)())));
        state
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadyCheck {
    /// The condition holds.
    pub fn pass(&self) {
        self.readiness.lock().insert(self.name, Ok(()));
    }

    /// It does not, and why.
    pub fn fail(&self, reason: &str) {
        self.readiness.lock().insert(self.name, Err(reason.to_owned()));
    }
}

/// The metrics of a process, shown once every part has registered its own; those of parts that come
/// later are added.
#[derive(Clone, Debug, Default)]
pub struct MetricsPage {
    registry: Arc<OnceLock<Registry>>,
    later: Arc<Mutex<Vec<Registry>>>,
}

impl MetricsPage {
    /// Shows these from now on. Said once.
    pub fn show(&self, registry: Registry) {
        if self.registry.set(registry).is_err() {
            tracing::error!("metrics were shown twice; the first ones stay");
        }
    }

    /// Adds the metrics of a part that came when the others were shown already, under other names.
    pub fn add(&self, registry: Registry) {
        self.later.lock().unwrap_or_else(PoisonError::into_inner).push(registry);
    }

    fn write(&self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, registry)?;
        for registry in self.later.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            encode_registry(&mut text, registry)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

impl From<Registry> for MetricsPage {
    fn from(registry: Registry) -> Self {
        let page = Self::default();
        page.show(registry);
        page
    }
}

#[derive(Clone, Debug)]
struct AdminState {
    readiness: Readiness,
    metrics: MetricsPage,
}

/// The three endpoints, to be served alone or merged into another router.
pub fn router(readiness: Readiness, metrics_page: MetricsPage) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(AdminState { readiness, metrics: metrics_page })
}

async fn ready(State(state): State<AdminState>) -> (StatusCode, String) {
    let (state, warnings) = (state.readiness.state(), state.readiness.warnings());
    let is_ready = state.values().all(Result::is_ok);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, report(&state) + &warnings)
}

fn report(state: &BTreeMap<&'static str, Result<(), String>>) -> String {
    let line = |(name, state): (&&str, &Result<(), String>)| match state {
        Ok(()) => format!("{name}: ok\n"),
        Err(reason) => format!("{name}: {reason}\n"),
    };
    state.iter().map(line).collect()
}

async fn metrics(State(state): State<AdminState>) -> Response {
    let Some(registry) = state.metrics.registry.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    };
    match state.metrics.write(registry) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests;
