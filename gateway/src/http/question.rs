//! How every question begins: who asks, for what, and how. Read before a handler runs, and refused in
//! the shape of the handler's API.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header::ACCEPT};
use axum::response::IntoResponse;
use trace_model::TimeRange;

use super::params::{Params, query_context, time_of_any_unit};
use super::reply::ApiError;
use crate::config::QueryContext;
use crate::gateway::Gateway;

/// A question; `R` is the error of its API.
pub(super) struct Question<R> {
    pub(super) gateway: Arc<Gateway>,
    pub(super) context: QueryContext,
    pub(super) params: Params,
    pub(super) wants_protobuf: bool,
    refusal: PhantomData<fn() -> R>,
}

impl<R> Question<R> {
    /// The time range of our own API, in any unit: what was asked for, or the last hour (or what
    /// the configuration says).
    pub(super) fn range(&self) -> Result<TimeRange, ApiError> {
        let lookback = self.gateway.config.search_lookback;
        let asked = self.params.time_range(time_of_any_unit, self.gateway.now(), lookback)?;
        Ok(asked.unwrap_or_else(|| self.gateway.last(lookback)))
    }

    /// A parameter that the question cannot do without.
    pub(super) fn required(&self, name: &str) -> Result<&str, ApiError> {
        let text = self.params.text(name);
        text.ok_or_else(|| ApiError::bad_request(format!("{name} is required")))
    }

    /// A parameter that is `true`, `false` or absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.params.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::bad_request(format!("{name} must be true or false"))),
        }
    }

    /// The `limit` of our own API.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let config = &self.gateway.config;
        self.params.number_within("limit", config.search_limit, config.search_limit_max)
    }
}

impl<R> FromRequestParts<Arc<Gateway>> for Question<R>
where
    R: From<ApiError> + IntoResponse,
{
    type Rejection = R;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, R> {
        let params = Params::of(&parts.uri)?;
        Ok(Self {
            context: query_context(&parts.headers, &params, &gateway.config)?,
            gateway: Arc::clone(gateway),
            wants_protobuf: wants_protobuf(&parts.headers),
            params,
            refusal: PhantomData,
        })
    }
}

/// Whether the caller asks for protobuf.
fn wants_protobuf(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|media| {
        let media = media.split(';').next().unwrap_or_default().trim();
        media == "application/protobuf" || media == "application/x-protobuf"
    })
}
