//! Spans that have left the disk of their cell.

use std::path::{Path, PathBuf};

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, random_trace_id, span};
use crate::http::eventually;

const REGION: &str = "eu-west-1";

/// Files below a directory whose names end so.
fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_spans_are_answered_as_hot_ones_are_and_named_when_they_are_gone() {
    let objects = tempfile::tempdir().unwrap();
    let place = objects.path().join("cold");
    let extra = format!("cold:\n  url: file://{}\n  after: 1s\n  every: 1s\n", place.display());
    let mut federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let trace = random_trace_id();
    let spans = vec![span(trace, 1, 0, "GET /cart"), span(trace, 2, 1, "render")];
    federation.send_spans(0, "web", spans).await;
    let store = federation.cell_data(0).join("store");
    eventually("all is in objects", PATIENCE, || async {
        let (hot, cold) = (files(&store, ".seg").len(), files(&place, ".seg").len());
        if hot == 0 && cold > 0 { Ok(()) } else { Err(format!("{hot} hot, {cold} cold")) }
    })
    .await;
    federation.kill_cell(0);
    federation.start_cell(0);
    federation.wait_ready(0).await;
    until(&federation, "complete: 1 of 1 regions", trace, &[1, 2]).await;
    // Blocks that were read are in memory: a new process has none.
    federation.kill_cell(0);
    files(&place, ".seg").iter().for_each(|object| std::fs::remove_file(object).unwrap());
    federation.start_cell(0);
    federation.wait_ready(0).await;
    until(&federation, "partial: 0 of 1 regions", trace, &[]).await;
    // A place that says nothing of its owner is the wrong one.
    federation.kill_cell(0);
    std::fs::remove_dir_all(&place).unwrap();
    federation.start_cell(0);
    eventually("the cell ends", PATIENCE, || async {
        let words = federation.last_words();
        if words.contains("is it the right place?") { Ok(()) } else { Err(words) }
    })
    .await;
}

async fn until(federation: &Federation, verdict: &str, trace: [u8; 16], spans: &[u64]) {
    let expected: Vec<_> = spans.iter().map(|id| hex(&id.to_be_bytes())).collect();
    eventually("the answer", PATIENCE, || async {
        let found = federation.certified(0, &trace).await?;
        match found.0.starts_with(verdict) && found.1 == expected {
            true => Ok(()),
            false => Err(format!("{found:?}\n{}", federation.last_words())),
        }
    })
    .await;
}
