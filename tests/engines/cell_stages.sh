#!/usr/bin/env bash
# What each stage of a cell's processes costs under load, in processor time a span: runs cell_load.sh with perf
# beside it and folds the samples. How a sample is placed, and the table of stages: cell_stages.py.
#   cell_stages.sh FARSPAN [groups|roles] [SPANS] [FOLDER]
#     FARSPAN   the binary, a release build with its symbols: `cargo build --profile dist` leaves them
#     groups    an ingester for each group (this where nothing is said); roles: one with all
#     SPANS     200000 where nothing is said
#     FOLDER    is kept and can be folded again by cell_stages.py; where none is named, nothing is kept
# Engines: `eval $(all.sh env)` first. Root, or kernel.perf_event_paranoid at 1 or less.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
farspan=${1:?the farspan binary}; mode=${2:-groups}; spans=${3:-200000}; folder=${4:-}

fail() { printf 'cell_stages.sh: %s\n' "$*" >&2; exit 1; }
command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3"
command -v perf >/dev/null || fail "perf is missing: apt-get install linux-perf (Ubuntu: linux-tools-$(uname -r))"
perf record --quiet --event cpu-clock --output /dev/null true 2>/dev/null ||
  fail "perf may not record here: as root, or sysctl kernel.perf_event_paranoid=1 (it is $(cat /proc/sys/kernel/perf_event_paranoid))"

if [ -z "$folder" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
mkdir -p "$folder"
rm -f "$folder"/*.{perf,log,samples} "$folder/report"
LOAD_SAMPLES=$folder "$here/cell_load.sh" "$farspan" "$mode" "$spans" >"$folder/report"
printf '%s spans, load %s\n' "$spans" "$(cut -d' ' -f1-3 /proc/loadavg)"
for data in "$folder"/*.perf; do
  # Without inlined functions: to know them takes debug information.
  perf script --input "$data" --no-inline --fields comm,tid,time,event,ip,sym,dso >"${data%.perf}.samples" 2>>"${data%.perf}.log"
done
"$here/cell_stages.py" "$folder"
