#!/usr/bin/env python3
"""Folds samples of a cell's processes into stages: what each costs, in microseconds of CPU a span.

    cell_stages.py FOLDER…               of what `cell_stages.sh` has recorded there, several runs together
    cell_stages.py FOLDER… --short       a line for each process
    cell_stages.py FOLDER… --in STAGE    which of our functions a stage's samples were called from

A FOLDER holds a NAME.samples for each process (what `perf script` prints) and `report` (what `cell_load.sh` prints).
A sample is placed by its stack, from the innermost frame outwards: the first frame that STAGES knows gives the stage.
Frames that it does not know are looked past: copying, hashing, containers, `proto`, futures belong to who calls them.
Only where the whole stack has none, the same is done with LAST. No debug information is needed or used, so what the
compiler has inlined counts as the function that it is in.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

# (what a frame's function begins with, or a type in it after `<`, ` as ` or `impl `; the stage)
STAGES = [
    # The kernel, by what it was asked for.
    (r"exc_page_fault$|__x64_sys_(madvise|munmap|mmap|mprotect|brk)", "memory: page faults"),
    (r"__sys_(send|recv)|sock_(write|read)_iter|net_rx_action|sock_close", "kernel: network"),
    (r"do_sys_poll|__x64_sys_(epoll|ppoll|futex)|do_epoll|epoll_wait$|eventfd_(read|write)", "kernel: wait and wake"),
    (r"ext4_|vfs_(write|fsync|open|unlink|rename)|__x64_sys_(fdatasync|fsync)", "kernel: files"),
    (r"(__)?schedule$|schedule_tail|do_exit|ret_from_fork", "kernel: wait and wake"),
    # Memory. Rust asks mimalloc, C asks libc.
    (r"_?mi_|(__libc_)?(malloc|free|calloc|realloc)$|_int_(malloc|free)|cfree|sysmalloc", "memory: allocator"),
    # Libraries that are a stage of their own wherever they are called.
    (r"LZ4|rd_kafka_lz4", "Kafka's client: LZ4"),
    (r"rd_crc32|crc32c|rd_kafka_crc", "Kafka's client: CRC"),
    (r"lz4_flex::|cityhash_rs::", "LZ4 and hash of inserts"),
    (r"ZSTD|zstd|HUF_|FSE_", "zstd"),
    (r"opentelemetry_proto::|prost::", "decode of spans (prost)"),
    (r"scylla::|scylla_cql", "Cassandra's client"),
    (r"clickhouse::", "ClickHouse's client"),
    (r"rustls::|aws_lc|ring::", "TLS"),
    (r"h2::|hyper::|hyper_util::|reqwest::|tower::|tonic::|axum::|http::|http_body|elasticsearch::", "HTTP, gRPC"),
    (r"serde_json::", "JSON"),
    # Ours. The log:
    (r"span_log::kafka::(record::RecordWriter|appender|pending|envelope::key_of)", "append: records, hand over, answers"),
    (r"span_log::kafka::(record|envelope|message)", "decode of the record"),
    (r"span_log::kafka::(lane|lanes|core|blocks|open|member|membership|succession|client)", "reader: lanes, last records"),
    (r"span_log::kafka::(tail|tail_memory)", "live tail: index, evict"),
    (r"span_log::", "ends, commits, figures of the log"),
    (r"thread span-log-report", "poll for answers to appends"),
    (r"thread span-log", "ends, commits, figures of the log"),
    # The groups:
    (r"ingester::dead_letter", "dead letters"),
    (r"ingester::border", "border"),
    (r"ingester::metadata_publisher|metadata_replicator::origin_log::own", "joining summaries"),
    (r"metadata_replicator::", "origin log"),
    (r"ingester::metrics_aggregator::(checkpoint|flush)", "checkpoint and flush"),
    (r"ingester::metrics_aggregator", "counting: RED, edges, services"),
    (r"ingester::", "runner and handler"),
    # The stores:
    (r"trace_store::cassandra::(rows|entries|batches|gather|places)", "rows"),
    (r"trace_store::cassandra", "plan and write of runs"),
    (r"trace_store::clickhouse::spans::(row|run|columns)|trace_store::clickhouse::row_binary", "rows"),
    (r"trace_store::clickhouse::metrics", "rows"),
    (r"trace_store::clickhouse", "blocks and inserts"),
    (r"trace_store::elasticsearch::(bulk|encode|document|json|names|identity)", "documents"),
    (r"trace_store::elasticsearch", "bulk: send, answer"),
    (r"trace_store::", "store"),
    # The collector and the querier:
    (r"collector::(validate|deep_check)", "validate, deep check"),
    (r"collector::(batch|enrich|sample)|sampling::", "enrich, sample, regroup"),
    (r"collector::", "receive"),
    (r"querier::", "reads"),
]
LAST = [
    (r"rd_kafka_|rd_|rdkafka::|thread rdk:", "Kafka's client"),
    (r"prometheus|tracing|service_kit::", "metrics and logs"),
    (r"proto::|trace_model::", "OTLP wire, spans"),
    (r"tokio::|mio::", "tasks (tokio)"),
    (r"farspan::", "wiring"),
]
# The same, from the outermost frame inwards: in whose turn a sample was taken.
TASKS = [
    (r"span_log::kafka::tail", "live tail"),
    (r"thread rdk:", "Kafka's client"),
    (r"thread span-log", "upkeep of the log"),
    (r"ingester::", "group"),
    (r"collector::|h2::|hyper::", "receivers"),
]
OURS = r"(?:trace_store|span_log|ingester|collector|querier|metadata_replicator|proto|farspan)::"
OTHER = "other"
SMALL = 0.02  # stages below it are shown together


def compiled(table):
    return [(re.compile(r"(?:^|<|\bas |\bimpl |&|mut )(?:" + pattern + ")"), stage) for pattern, stage in table]


STAGES, LAST, TASKS = compiled(STAGES), compiled(LAST), compiled(TASKS)
OUTSIDE_MEMORY = [row for row in STAGES if not row[1].startswith("memory")]
known = {}


def first_of(table, frames):
    """The stage of the innermost frame that the table knows."""
    for frame in frames:
        key = (id(table), frame)
        if key not in known:
            known[key] = next((stage for pattern, stage in table if pattern.search(frame)), None)
        if known[key]:
            return known[key]
    return None


def stage_of(frames, table=STAGES):
    return first_of(table, frames) or first_of(LAST, frames) or OTHER


def samples(lines):
    """The frames of each sample, innermost first; the thread is the outermost."""
    thread, frames = "", []
    for line in lines:
        if line[:1].isspace():
            function = re.match(r"\s+[0-9a-f]+ (.+) \(\S+\)$", line)
            if function:
                frames.append(function[1])
            elif not line.strip() and frames:
                yield [*frames, f"thread {thread}"]
                frames = []
        elif start := re.match(r"(.*?)\s+\d+\s+[\d.]+:", line):
            thread, frames = start[1], []


def shares(counts, total):
    """The shares of at least 2 %, in a line."""
    large = [(name, count) for name, count in counts.most_common() if count >= SMALL * total]
    return ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in large)


class Process:
    """The samples of a process, counted."""

    def __init__(self):
        self.stages, self.tasks, self.memory, self.others = Counter(), Counter(), Counter(), Counter()
        self.functions = {}

    def take(self, frames):
        stage = stage_of(frames)
        self.stages[stage] += 1
        self.tasks[first_of(TASKS, frames[::-1]) or "the rest"] += 1
        if stage.startswith("memory"):
            self.memory[stage_of(frames, OUTSIDE_MEMORY)] += 1
        if stage == OTHER:
            self.others[frames[0]] += 1
        function = next((frame for frame in frames if re.search(OURS, frame)), frames[-1])
        self.functions.setdefault(stage, Counter())[function] += 1

    def rows(self):
        """Stages from the dearest down, the small ones together."""
        least = SMALL * self.stages.total()
        placed = [row for row in self.stages.most_common() if row[0] != OTHER]
        small = sum(count for _, count in placed if count < least)
        large = [row for row in placed if row[1] >= least]
        return [*large, ("below 2 % each", small), (OTHER, self.stages[OTHER])]

    def print_row(self, name, micros):
        total = max(self.stages.total(), 1)
        parts = [f"{stage} {100 * count / total:.0f} %, {micros * count / total:.1f}" for stage, count in self.rows()]
        print(f"| {name} | {micros:.1f} | {'; '.join(parts)} | {shares(self.tasks, total)} |")

    def print(self, name, micros):
        total = max(self.stages.total(), 1)
        print(f"\n{name}: {micros:.1f} µs CPU a span, {total} samples")
        print(f"in whose turn: {shares(self.tasks, total)}")
        print(f"memory, by the stage that asks: {shares(self.memory, total)}\n")
        print("| stage | share | µs a span |\n|---|---|---|")
        for stage, count in self.rows():
            print(f"| {stage} | {100 * count / total:.1f} % | {micros * count / total:.2f} |")
        for frame, count in self.others.most_common(5):
            print(f"  other: {100 * count / total:.1f} %  {frame}")

    def print_functions(self, name, stage):
        total, functions = max(self.stages.total(), 1), self.functions.get(stage, Counter())
        print(f"\n{name}: {stage}, {100 * functions.total() / total:.1f} %")
        for function, count in functions.most_common(12):
            print(f"  {100 * count / total:5.1f} %  {function}")


def count(folders):
    """The processes, and the CPU a span of each in each folder."""
    processes, micros = {}, {}
    for folder in folders:
        report = dict(line.split() for line in (folder / "report").read_text().splitlines())
        for path in sorted(folder.glob("*.samples")):
            process = processes.setdefault(path.stem, Process())
            micros.setdefault(path.stem, []).append(float(report[f"{path.stem}_whole_cpu_us_per_span"]))
            with open(path, errors="replace") as lines:
                for frames in samples(lines):
                    process.take(frames)
    return processes, {name: sum(each) / len(each) for name, each in micros.items()}


def main():
    parser = argparse.ArgumentParser(description="Folds samples of a cell's processes into stages.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--in", dest="stage", help="our functions that a stage's samples were called from")
    parser.add_argument("--short", action="store_true", help="a line for each process")
    arguments = parser.parse_args()
    processes, micros = count(arguments.folders)
    if arguments.short:
        print("| process | µs CPU a span | stages: share, µs a span | in whose turn |\n|---|---|---|---|")
    for name, process in processes.items():
        if arguments.stage:
            process.print_functions(name, arguments.stage)
        elif arguments.short:
            process.print_row(name, micros[name])
        else:
            process.print(name, micros[name])


main()
