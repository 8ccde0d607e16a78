//! The house's rules that no lint knows: which crate may know which, how long a file may be, what
//! must be written on top of it, and what must not be in it.
//!
//! Each test reports every place that breaks its rule, not only the first.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of a file before its tests.
const LINES_MAX: usize = 400;

/// Which crates of ours each crate may know. What is not listed is forbidden.
const MAY_KNOW: [(&str, &[&str]); 12] = [
    ("trace-model", &[]),
    ("proto", &["trace-model"]),
    ("service-kit", &["trace-model"]),
    ("sampling", &["trace-model"]),
    ("span-log", &["trace-model", "proto", "service-kit"]),
    ("trace-store", &["trace-model", "proto", "service-kit"]),
    ("collector", &["trace-model", "proto", "service-kit", "span-log", "sampling"]),
    (
        "ingester",
        &[
            "trace-model",
            "proto",
            "service-kit",
            "span-log",
            "trace-store",
            "sampling",
            "metadata-replicator",
        ],
    ),
    ("querier", &["trace-model", "proto", "service-kit", "trace-store"]),
    ("metadata-replicator", &["trace-model", "proto", "service-kit"]),
    ("gateway", &["trace-model", "proto", "service-kit"]),
    (
        "farspan",
        &[
            "trace-model",
            "proto",
            "service-kit",
            "collector",
            "span-log",
            "sampling",
            "ingester",
            "trace-store",
            "querier",
            "metadata-replicator",
            "gateway",
        ],
    ),
];

/// What a crate must never know, and why.
const NEVER: [(&str, &[&str], &str); 4] = [
    ("trace-model", &["tokio", "tonic", "prost", "hyper", "axum"], "words outlive wires"),
    ("sampling", &["tokio", "tonic", "prost", "hyper", "axum"], "decisions are pure"),
    ("gateway", &["span-log", "trace-store", "collector"], "a cell is reached over the wire"),
    ("querier", &["span-log"], "the live tail comes through a port"),
];

/// Clients of engines: the crate that may know each, and the one directory in it.
const ENGINES: [(&str, &str, &str); 6] = [
    ("rdkafka", "span-log", "cell/span-log/src/kafka"),
    ("scylla", "trace-store", "cell/trace-store/src/cassandra"),
    ("elasticsearch", "trace-store", "cell/trace-store/src/elasticsearch"),
    ("clickhouse", "trace-store", "cell/trace-store/src/clickhouse"),
    ("object_store", "trace-store", "cell/trace-store/src/object_storage"),
    ("redis", "gateway", "gateway/src/shared_state/redis"),
];

/// Words that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["utils", "common", "helpers", "manager"];

/// Crates with a port, and where its adapters are; each adapter runs the crate's conformance suite.
const PORTS: [(&str, &str); 3] =
    [("cell/span-log", "src"), ("cell/trace-store", "src"), ("gateway", "src/shared_state")];
const ADAPTERS: [&str; 9] = [
    "embedded",
    "memory",
    "moka",
    "redis",
    "kafka",
    "cassandra",
    "elasticsearch",
    "clickhouse",
    "object_storage",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The workspace's packages as cargo sees them.
fn packages() -> Vec<Value> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    metadata.get("packages").and_then(Value::as_array).unwrap().clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The package's dependencies that ship: neither of its tests nor of its build.
fn shipped(package: &Value) -> Vec<&Value> {
    let all = package.get("dependencies").and_then(Value::as_array).unwrap();
    all.iter().filter(|dependency| dependency.get("kind") == Some(&Value::Null)).collect()
}

/// All files that belong to the project, relative to its root.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if matches!(name, "target" | ".git" | ".terraform" | "node_modules") {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            found.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(path)).unwrap()).into_owned()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    files().into_iter().filter(is_rust).map(|path| (path.clone(), read(&path))).collect()
}

fn assert_none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}\n  {}", faults.join("\n  "));
}

#[test]
fn dependencies_point_one_way() {
    let may_know: BTreeMap<&str, &[&str]> = MAY_KNOW.into_iter().collect();
    let mut faults = Vec::new();
    for package in packages() {
        let name = text(&package, "name");
        let Some(known) = may_know.get(name) else {
            faults.push(format!("{name} is not in the table"));
            continue;
        };
        for dependency in shipped(&package) {
            let other = text(dependency, "name");
            if may_know.contains_key(other) && !known.contains(&other) {
                faults.push(format!("{name} -> {other}"));
            }
            let engine = ENGINES.iter().find(|(client, ..)| *client == other);
            let is_optional = dependency.get("optional") == Some(&Value::Bool(true));
            if engine.is_some_and(|(_, owner, _)| *owner != name || !is_optional) {
                faults.push(format!("{name} -> {other}: an engine's client is behind a feature"));
            }
            for (crate_name, never, why) in NEVER {
                if crate_name == name && never.contains(&other) {
                    faults.push(format!("{name} -> {other}: {why}"));
                }
            }
        }
    }
    assert_none(&faults, "dependencies that the layout forbids");
}

#[test]
fn an_engines_client_is_named_in_its_adapter_alone() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let shown = path.to_string_lossy().into_owned();
        if !shown.contains("/src/") && !shown.starts_with("src/") {
            continue;
        }
        for (client, _, directory) in ENGINES {
            let is_inside = shown.starts_with(directory);
            let names_it = |line: &str| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("use {client}::"))
                    || code.contains(&format!(" ::{client}::"))
            };
            if !is_inside && text.lines().any(names_it) {
                faults.push(format!("{shown} names {client}, which belongs into {directory}"));
            }
        }
    }
    assert_none(&faults, "clients of engines outside their adapter");
}

#[test]
fn no_test_code_ships() {
    let mut faults = Vec::new();
    for package in packages() {
        for dependency in shipped(&package) {
            let features = dependency.get("features").and_then(Value::as_array);
            for feature in features.into_iter().flatten().filter_map(Value::as_str) {
                if feature.contains("test") {
                    let (name, other) = (text(&package, "name"), text(dependency, "name"));
                    faults.push(format!("{name} -> {other} with {feature}"));
                }
            }
        }
    }
    assert_none(&faults, "features for tests in [dependencies]");
}

#[test]
fn every_crate_has_the_workspaces_lints() {
    let mut faults = Vec::new();
    for package in packages() {
        let manifest = text(&package, "manifest_path");
        let manifest_text = std::fs::read_to_string(manifest).unwrap();
        if !manifest_text.contains("[lints]\nworkspace = true") {
            faults.push(text(&package, "name").to_owned());
        }
    }
    assert_none(&faults, "crates without `[lints] workspace = true`");
}

#[test]
fn every_file_says_what_it_is_for() {
    // A file of tests is part of the module that it tests; a suite of its own is not.
    let is_part = |path: &Path| is_test_file(path) && !path.ends_with("main.rs");
    let silent =
        rust_files().into_iter().filter(|(path, text)| !is_part(path) && !text.starts_with("//! "));
    let faults: Vec<String> = silent.map(|(path, _)| path.display().to_string()).collect();
    assert_none(&faults, "files that do not begin with a module doc");
}

/// Lines before the first `mod tests`.
fn lines_before_tests(text: &str) -> usize {
    let is_tests = |line: &str| line.starts_with("#[cfg(test)]");
    text.lines().position(is_tests).unwrap_or_else(|| text.lines().count())
}

fn is_test_file(path: &Path) -> bool {
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    in_tests || path.file_name().is_some_and(|name| name == "tests.rs")
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let lines = lines_before_tests(&text);
        if lines > LINES_MAX && !is_test_file(&path) {
            faults.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert_none(&faults, &format!("files of more than {LINES_MAX} lines before their tests"));
}

#[test]
fn lines_are_counted_up_to_the_tests() {
    assert_eq!(lines_before_tests("a\nb\n#[cfg(test)]\nmod tests;\n"), 2);
    assert_eq!(lines_before_tests("a\nb\n"), 2);
    assert!(is_test_file(Path::new("x/src/foo/tests.rs")));
    assert!(is_test_file(Path::new("x/tests/system/main.rs")));
    assert!(!is_test_file(Path::new("x/src/contests.rs")));
}

#[test]
fn the_image_is_built_by_the_release_that_everybody_builds_with() {
    let toolchain = read(Path::new("rust-toolchain.toml"));
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap();
    let image = read(Path::new("docs/deploy/Containerfile"));
    let wanted = format!("ARG BUILD=rust:{}-", channel.trim_matches('"'));
    assert!(image.lines().any(|line| line.starts_with(&wanted)), "{wanted}");
}

#[test]
fn no_test_is_switched_off() {
    // Put together, so that this file does not find itself.
    let ignored = concat!("#[", "ignore");
    let holds = |(_, text): &(PathBuf, String)| text.contains(ignored);
    let found = rust_files().into_iter().filter(holds);
    let faults: Vec<String> = found.map(|(path, _)| path.display().to_string()).collect();
    assert_none(&faults, "tests that never run");
}

#[test]
fn no_lint_is_switched_off_without_an_argument() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let attributes = text.split("#[allow(").skip(1).chain(text.split("#[expect(").skip(1));
        for attribute in attributes.filter(|attribute| !attribute.contains("reason =")) {
            let line = attribute.lines().next().unwrap_or_default();
            faults.push(format!("{}: {line}", path.display()));
        }
    }
    assert_none(&faults, "lints that are switched off without a reason");
}

#[test]
fn names_say_what_is_inside() {
    let mut faults = Vec::new();
    for path in files() {
        let parts = path.with_extension("");
        let empty = parts.components().filter_map(|part| part.as_os_str().to_str());
        faults.extend(
            empty
                .filter(|part| EMPTY_NAMES.contains(part))
                .map(|part| format!("{}: {part}", path.display())),
        );
    }
    assert_none(&faults, "names that say nothing");
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    // Put together, so that this file does not find itself.
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let texts = ["rs", "toml", "md", "yaml", "yml", "proto", "tf", "sh", "py", "js", "html"];
    let mut faults = Vec::new();
    for path in files() {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !extension.is_none_or(|extension| texts.contains(&extension)) {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            if places.iter().any(|place| line.contains(place)) {
                faults.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert_none(&faults, "paths of one machine");
}

/// Words in backticks or link targets that are paths inside the project.
fn paths_in(markdown: &str) -> BTreeSet<String> {
    let quoted = markdown.split('`').skip(1).step_by(2).map(ToOwned::to_owned);
    let linked = markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let linked = linked.map(|target| target.split('#').next().unwrap_or_default().to_owned());
    let is_path = |word: &String| {
        let starts = ["src/", "proto/", "cell/", "gateway/", "docs/", "tests/", "terraform/"];
        let is_inside = starts.iter().any(|start| word.starts_with(start))
            || word.starts_with("metadata-replicator/");
        is_inside && !word.contains([' ', '*', '<', '{', '…'])
    };
    quoted.chain(linked).filter(is_path).collect()
}

#[test]
fn the_map_names_what_exists() {
    let mut faults = Vec::new();
    for document in files() {
        let is_map = document == Path::new("README.md") || document.starts_with("docs");
        if !is_map || document.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let directory = document.parent().unwrap_or_else(|| Path::new(""));
        for path in paths_in(&read(&document)) {
            let exists = root().join(&path).exists() || root().join(directory).join(&path).exists();
            if !exists {
                faults.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert_none(&faults, "paths that do not exist");
}

#[test]
fn paths_are_found_in_backticks_and_links() {
    let found = paths_in("see `cell/collector`, [x](docs/API.md#top), `cargo test`, `src/*`");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["cell/collector", "docs/API.md"]);
}

#[test]
fn every_decision_is_listed_and_says_why_and_what_follows() {
    let directory = Path::new("docs/DECISIONS");
    let list = read(&directory.join("README.md"));
    let mut faults = Vec::new();
    for path in files().iter().filter(|path| path.parent() == Some(directory)) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "README.md" {
            continue;
        }
        let decision = read(path);
        for part in ["Context", "Decision", "Consequences"] {
            let starts = [format!("## {part}"), format!("**{part}.**")];
            if !decision.lines().any(|line| starts.iter().any(|start| line.starts_with(start))) {
                faults.push(format!("{name}: no {part}"));
            }
        }
        if !list.contains(&format!("]({name})")) {
            faults.push(format!("{name}: not in docs/DECISIONS/README.md"));
        }
    }
    assert_none(&faults, "decisions that are not whole or not listed");
}

#[test]
fn every_adapter_runs_its_conformance_suite() {
    let mut faults = Vec::new();
    for (port, place) in PORTS {
        let mut suite = String::new();
        for path in files().iter().filter(|path| path.starts_with(format!("{port}/tests"))) {
            suite.push_str(&read(path));
        }
        for adapter in ADAPTERS {
            let source = root().join(port).join(place);
            let exists = source.join(format!("{adapter}.rs")).exists();
            if exists && !suite.contains(&format!("mod {adapter}")) {
                faults.push(format!("{port}: {adapter}"));
            }
        }
    }
    assert_none(&faults, "adapters without an instance `mod ADAPTER` in tests/conformance");
}

#[test]
fn what_is_left_to_do_is_an_issue_and_not_a_comment() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            let word = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")]
                .into_iter()
                .find(|word| line.contains(word));
            if word.is_some() && !line.contains('#') {
                faults.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert_none(&faults, "things left to do without an issue");
}
