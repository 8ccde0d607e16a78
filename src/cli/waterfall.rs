//! A trace as text: one line a span, indented by depth, with a bar on the trace's own time scale.
//!
//! Pure: from an answer to lines.

use trace_model::assemble::{Trace, TraceNode, assemble};
use trace_model::{Region, StatusCode, TraceId, UnixNanos};

use super::otlp_json::TraceAnswer;
use super::output::Paint;
use super::table::{clean, duration, fit, fit_right, moment, width};

/// Deepest indentation; deeper spans say their depth.
const INDENT_MAX: usize = 16;
const REGION_COLUMNS_MAX: usize = 20;
/// Regions whose clocks seem this far apart are named.
const SKEW_SHOWN_NANOS: u128 = 5_000_000;

/// How large the drawing may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Columns.
    pub(super) columns: usize,
    /// Lines of spans.
    pub(super) lines: usize,
}

/// Draws the answer: head, spans, and at the end whether it is complete.
pub(super) fn draw(id: TraceId, answer: TraceAnswer, size: Size, paint: Paint) -> Vec<String> {
    let certificate = answer.certificate.clone();
    let (spans, unreadable) = answer.spans();
    let without_region = spans.iter().filter(|(_, region)| region.is_none()).count();
    let unknown = Region::new("unknown").ok();
    let spans = spans.into_iter().filter_map(|(span, region)| {
        let region = region.or_else(|| unknown.clone())?;
        Some((span, region))
    });
    let trace = assemble(spans.collect());
    let mut lines = head(id, &trace);
    lines.extend(Canvas::new(&trace, size, paint).rows(&trace));
    for (count, what) in [
        (unreadable, "spans could not be read by this version"),
        (without_region, "spans came without their region"),
    ] {
        if count > 0 {
            lines.push(paint.warn(&format!("{count} {what}")));
        }
    }
    lines.extend(skew_lines(&trace, paint));
    lines.push(String::new());
    let is_complete = certificate.is_complete();
    for (index, line) in certificate.lines().into_iter().enumerate() {
        lines.push(match (index, is_complete) {
            (0, true) => paint.good(&line),
            (0, false) => paint.bad(&line),
            _ => line,
        });
    }
    lines
}

fn head(id: TraceId, trace: &Trace) -> Vec<String> {
    let distinct = |name: fn(&TraceNode) -> &str| {
        let names: std::collections::BTreeSet<&str> = trace.nodes.iter().map(name).collect();
        names.len()
    };
    let services = distinct(|node| &node.span.resource.service);
    let regions = distinct(|node| node.region.as_str());
    let errors = trace.nodes.iter().filter(|node| is_error(node)).count();
    let (start, end) = extent(trace);
    let counts = [
        count(trace.nodes.len(), "span", "spans"),
        count(services, "service", "services"),
        count(regions, "region", "regions"),
        count(errors, "error", "errors"),
        duration(end.since(start)),
    ];
    let line = format!("{}, from {}", counts.join(", "), moment(start.0));
    vec![format!("trace {id}"), line, String::new()]
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn is_error(node: &TraceNode) -> bool {
    node.span.status == StatusCode::Error
}

/// First start and last end.
fn extent(trace: &Trace) -> (UnixNanos, UnixNanos) {
    let starts = trace.nodes.iter().map(|node| node.span.start);
    let start = starts.min().unwrap_or_default();
    let ends = trace.nodes.iter().map(|node| node.span.end.max(node.span.start));
    (start, ends.max().unwrap_or(start))
}

/// Columns and scale of a drawing.
#[derive(Debug)]
struct Canvas {
    paint: Paint,
    region_columns: usize,
    name_columns: usize,
    duration_columns: usize,
    bar_columns: usize,
    lines: usize,
    start: UnixNanos,
    nanos: u64,
    regions: Vec<Region>,
}

impl Canvas {
    fn new(trace: &Trace, size: Size, paint: Paint) -> Self {
        let (start, end) = extent(trace);
        let mut regions: Vec<Region> = trace.nodes.iter().map(|node| node.region.clone()).collect();
        regions.sort();
        regions.dedup();
        let widest = regions.iter().map(|region| width(region.as_str())).max().unwrap_or(0);
        let region_columns = widest.min(REGION_COLUMNS_MAX);
        let gaps = 6;
        let durations = trace.nodes.iter().map(|node| width(&duration(node.span.duration_nanos())));
        let duration_columns = durations.max().unwrap_or(0);
        let rest = size.columns.saturating_sub(region_columns + duration_columns + gaps);
        let longest = trace.nodes.iter().map(|node| width(&label(node))).max().unwrap_or(0);
        let name_columns = longest.min(rest * 3 / 5);
        Self {
            paint,
            region_columns,
            name_columns,
            duration_columns,
            bar_columns: rest.saturating_sub(name_columns),
            lines: size.lines.max(1),
            start,
            nanos: end.since(start).max(1),
            regions,
        }
    }

    fn rows(&self, trace: &Trace) -> Vec<String> {
        let mut lines: Vec<String> =
            trace.nodes.iter().take(self.lines).map(|node| self.row(node)).collect();
        let left_out = trace.nodes.len().saturating_sub(self.lines);
        if left_out > 0 {
            let text = format!("… and {left_out} more spans (--lines)");
            lines.push(self.paint.warn(&text));
        }
        lines
    }

    fn row(&self, node: &TraceNode) -> String {
        let place = self.regions.binary_search(&node.region).unwrap_or(0);
        let region = self.paint.nth(&fit(node.region.as_str(), self.region_columns), place);
        let name = fit(&label(node), self.name_columns);
        let time = fit_right(&duration(node.span.duration_nanos()), self.duration_columns);
        let bar = self.bar(node);
        if is_error(node) {
            let (name, bar) = (self.paint.bad(&name), self.paint.bad(&bar));
            return format!("{region}  {name}  {time}  {bar}").trim_end().to_owned();
        }
        let bar = self.paint.nth(&bar, place);
        format!("{region}  {name}  {time}  {bar}").trim_end().to_owned()
    }

    /// The span's bar: at least one column, never beyond the last.
    fn bar(&self, node: &TraceNode) -> String {
        let before = self.scale(node.span.start.since(self.start));
        let before = before.min(self.bar_columns.saturating_sub(1));
        let room = self.bar_columns.saturating_sub(before);
        let length = self.scale(node.span.duration_nanos()).clamp(1, room.max(1));
        format!("{}{}", " ".repeat(before), "█".repeat(length))
    }

    fn scale(&self, nanos: u64) -> usize {
        let columns = u128::try_from(self.bar_columns).unwrap_or(0);
        let scaled = u128::from(nanos).saturating_mul(columns) / u128::from(self.nanos);
        usize::try_from(scaled).unwrap_or(self.bar_columns)
    }
}

/// Indentation, service, operation, and what went wrong.
fn label(node: &TraceNode) -> String {
    let indent = "  ".repeat(node.depth.min(INDENT_MAX));
    let deep = if node.depth > INDENT_MAX { format!("({}) ", node.depth) } else { String::new() };
    let orphan = if node.is_orphan { "? " } else { "" };
    let text = format!("{indent}{deep}{orphan}{} {}", node.span.resource.service, node.span.name);
    if !is_error(node) {
        return clean(&text);
    }
    let message = node.span.status_message.as_str();
    let message = if message.is_empty() { "error" } else { message };
    clean(&format!("{text} ! {message}"))
}

/// Clocks that seem to differ, beside the raw times.
fn skew_lines(trace: &Trace, paint: Paint) -> Vec<String> {
    let shown =
        trace.clock_offsets.iter().filter(|(_, ahead)| ahead.unsigned_abs() >= SKEW_SHOWN_NANOS);
    let line = |(region, ahead): (&Region, &i128)| {
        let word = if *ahead > 0 { "ahead" } else { "behind" };
        let nanos = u64::try_from(ahead.unsigned_abs()).unwrap_or(u64::MAX);
        paint.dim(&format!("the clock of {region} seems {} {word}", duration(nanos)))
    };
    shown.map(line).collect()
}

#[cfg(test)]
mod tests;
