//! Reading requests: tenant, query parameters, ids, times and durations. A parameter that cannot be
//! read is refused by name; none is guessed or silently left out.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::Query;
use axum::http::{HeaderMap, Uri};
use trace_model::{TenantId, TimeRange, TraceId, UnixNanos};

use super::reply::ApiError;
use crate::config::{Freshness, GatewayConfig, Patience, QueryContext};

/// The tenant's header, as Mimir, Loki and Tempo have it.
const TENANT_HEADER: &str = "x-scope-orgid";
/// The shortest `timeout`.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The query parameters of a request, in order, repeated ones included.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| ApiError::bad_request("the query string cannot be read"))?;
        Ok(Self(pairs))
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of a parameter but the empty ones.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(key, value)| key == name && !value.is_empty());
        named.map(|(_, value)| value.as_str())
    }

    /// An unsigned number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                let found = shorten(text);
                ApiError::bad_request(format!(
                    "{name} must be a number from 0 to {}, not {found:?}",
                    u64::MAX
                ))
            })
        };
        self.text(name).map(parse).transpose()
    }

    /// A number that lies between two limits.
    pub(super) fn number_within(
        &self,
        name: &str,
        default: usize,
        max: usize,
    ) -> Result<usize, ApiError> {
        let Some(number) = self.number(name)? else { return Ok(default.min(max)) };
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if (1..=max).contains(&number) {
            return Ok(number);
        }
        Err(ApiError::bad_request(format!("{name} must lie between 1 and {max}")))
    }

    /// A duration as Go prints it: `1.5s`, `300ms`, `1h30m`.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        let parse = |text: &str| {
            parse_duration(text).ok_or_else(|| {
                let found = shorten(text);
                ApiError::bad_request(format!(
                    "{name} must be a duration such as 1us, 300ms or 1.5s, not {found:?}"
                ))
            })
        };
        self.text(name).map(parse).transpose()
    }

    /// A range of durations in nanoseconds.
    pub(super) fn duration_range(&self) -> Result<(Option<u64>, Option<u64>), ApiError> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let min = self.duration("minDuration")?.map(nanos);
        let max = self.duration("maxDuration")?.map(nanos);
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Err(ApiError::bad_request("maxDuration must not be below minDuration"));
        }
        Ok((min, max))
    }

    /// A time range from `start` and `end` in a unit; `None` where neither is given. An open end is
    /// closed by `now`, an open start lies `lookback` before the end.
    pub(super) fn time_range(
        &self,
        to_time: impl Fn(u64) -> UnixNanos,
        now: UnixNanos,
        lookback: Duration,
    ) -> Result<Option<TimeRange>, ApiError> {
        let (start, end) = (self.number("start")?, self.number("end")?);
        if start.is_none() && end.is_none() {
            return Ok(None);
        }
        let end = end.map_or(now, &to_time);
        let lookback = u64::try_from(lookback.as_nanos()).unwrap_or(u64::MAX);
        let start = start.map_or(end.minus(lookback), to_time);
        if start >= end {
            return Err(ApiError::bad_request("start must lie before end"));
        }
        Ok(Some(TimeRange { start, end }))
    }
}

/// Who asks and how: the tenant's header, `freshness` and `timeout`.
pub(super) fn query_context(
    headers: &HeaderMap,
    params: &Params,
    config: &GatewayConfig,
) -> Result<QueryContext, ApiError> {
    let patience = patience(params, config)?;
    Ok(QueryContext::new(tenant(headers)?, freshness(params)?, patience))
}

/// The tenant that the headers name, or the default one. An empty name is none: proxies send it so
/// where they have nothing to put there.
fn tenant(headers: &HeaderMap) -> Result<TenantId, ApiError> {
    let mut named = headers.get_all(TENANT_HEADER).iter();
    let Some(name) = named.next() else { return Ok(TenantId::default()) };
    if named.next().is_some() {
        return Err(ApiError::bad_request("more than one X-Scope-OrgID"));
    }
    if name.is_empty() {
        return Ok(TenantId::default());
    }
    let name = name.to_str().ok().and_then(|name| TenantId::new(name).ok());
    name.ok_or_else(|| ApiError::bad_request("X-Scope-OrgID is not a tenant's name"))
}

fn freshness(params: &Params) -> Result<Freshness, ApiError> {
    match params.text("freshness") {
        None | Some("auto") => Ok(Freshness::Auto),
        Some("index") => Ok(Freshness::Index),
        Some("now") => Ok(Freshness::Now),
        Some(_) => Err(ApiError::bad_request("freshness must be auto, index or now")),
    }
}

fn patience(params: &Params, config: &GatewayConfig) -> Result<Patience, ApiError> {
    let Some(timeout) = params.duration("timeout")? else { return Ok(config.patience) };
    if (TIMEOUT_MIN..=config.timeout_max).contains(&timeout) {
        return Ok(Patience::exactly(timeout));
    }
    let max = config.timeout_max.as_secs();
    Err(ApiError::bad_request(format!("timeout must lie between 1ms and {max}s")))
}

/// A trace id in any form that people paste.
pub(super) fn trace_id(text: &str) -> Result<TraceId, ApiError> {
    TraceId::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("not a trace id: {error}")))
}

/// A time of unknown unit, told by its size: up to 1e11 seconds, 1e14 milli-, 1e17 microseconds,
/// beyond that nanoseconds. Every date from 1973 to 5138 is read right.
pub(super) const fn time_of_any_unit(number: u64) -> UnixNanos {
    match number {
        0..100_000_000_000 => UnixNanos::from_millis(number.saturating_mul(1_000)),
        100_000_000_000..100_000_000_000_000 => UnixNanos::from_millis(number),
        100_000_000_000_000..100_000_000_000_000_000 => UnixNanos::from_micros(number),
        _ => UnixNanos(number),
    }
}

/// A duration as Go's `time.ParseDuration` reads it, without a sign; days (`d`) and weeks (`w`), as
/// the Jaeger UI has them, are taken too.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let units = after.find(|letter: char| letter.is_ascii_digit() || letter == '.');
        let (unit, after) = after.split_at_checked(units.unwrap_or(after.len()))?;
        let seconds = number.parse::<f64>().ok()? * unit_seconds(unit)?;
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = after;
    }
    Some(total)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1e-9),
        "us" | "µs" | "μs" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3_600.0),
        "d" => Some(86_400.0),
        "w" => Some(7.0 * 86_400.0),
        _ => None,
    }
}

/// What was sent, short enough to be shown.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::of(&format!("/x?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn durations_are_read_as_go_prints_them() {
        for (text, nanos) in [
            ("1us", 1_000),
            ("1µs", 1_000),
            ("1.5s", 1_500_000_000),
            ("300ms", 300_000_000),
            ("1h30m", 5_400_000_000_000),
            ("0s", 0),
            ("2d", 172_800_000_000_000),
            ("2w", 1_209_600_000_000_000),
        ] {
            assert_eq!(parse_duration(text).map(|found| found.as_nanos()), Some(nanos), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.2.3s", "1e9s", "1x", "99999999999999999999h", "1s5"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn every_number_is_checked_at_its_edges() {
        for (text, expected) in [
            ("limit=0", None),
            ("limit=-1", None),
            ("limit=18446744073709551615", None),
            ("limit=18446744073709551616", None),
            ("limit=1501", None),
            ("limit=1.5", None),
            ("limit=abc", None),
            ("limit=1500", Some(1_500)),
            ("limit=", Some(20)),
            ("", Some(20)),
        ] {
            assert_eq!(params(text).number_within("limit", 20, 1_500).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_range_needs_a_start_before_its_end() {
        let now = UnixNanos(10_000_000_000);
        let hour = Duration::from_secs(3_600);
        let read = |query: &str| params(query).time_range(UnixNanos::from_micros, now, hour);
        assert_eq!(read("").unwrap(), None);
        let range = read("start=1&end=2").unwrap().unwrap();
        assert_eq!((range.start.0, range.end.0), (1_000, 2_000));
        assert!(read("start=2&end=2").is_err());
        assert!(read("start=3&end=2").is_err());
        assert!(read("start=-1").is_err());
        let all = read("start=0&end=18446744073709551615").unwrap().unwrap();
        assert_eq!(all, TimeRange::ALL);
    }

    #[test]
    fn a_time_of_any_unit_is_told_by_its_size() {
        let expected = UnixNanos(1_790_000_000_000_000_000);
        for number in
            [1_790_000_000, 1_790_000_000_000, 1_790_000_000_000_000, 1_790_000_000_000_000_000]
        {
            assert_eq!(time_of_any_unit(number), expected, "{number}");
        }
    }

    #[test]
    fn the_tenant_is_checked_and_defaults_when_absent_or_empty() {
        let mut headers = HeaderMap::new();
        assert_eq!(tenant(&headers).unwrap(), TenantId::default());
        headers.insert(TENANT_HEADER, "team-a".parse().unwrap());
        assert_eq!(tenant(&headers).unwrap().as_str(), "team-a");
        headers.append(TENANT_HEADER, "team-b".parse().unwrap());
        assert!(tenant(&headers).is_err());
        headers.insert(TENANT_HEADER, "a/b".parse().unwrap());
        assert!(tenant(&headers).is_err());
        headers.insert(TENANT_HEADER, "".parse().unwrap());
        assert_eq!(tenant(&headers).unwrap(), TenantId::default());
    }

    #[test]
    fn a_timeout_is_bounded() {
        let config = GatewayConfig::new(trace_model::Region::new("eu").unwrap(), Vec::new());
        for bad in ["timeout=0s", "timeout=121s", "timeout=5", "timeout=-1s"] {
            assert!(patience(&params(bad), &config).is_err(), "{bad}");
        }
        let exactly = Patience::exactly(Duration::from_millis(250));
        assert_eq!(patience(&params("timeout=250ms"), &config).unwrap(), exactly);
        assert_eq!(patience(&params(""), &config).unwrap(), config.patience);
    }
}
