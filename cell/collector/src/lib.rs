//! Receive, validate, enrich, head-sample, batch and append OTLP spans.
