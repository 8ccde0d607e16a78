#!/usr/bin/env bash
# The OpenTelemetry Python SDK through a running demo. Needs python3 with venv; installs the SDK
# into a directory of its own.
#   tests/python/run.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/../.."
directory=${1:-$(mktemp -d)}
mkdir -p "$directory"
python3 -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/python/requirements.txt
base=24000
target/release/farspan demo --no-traffic --base-port $base --data-dir "$directory/data" \
    > "$directory/demo.log" 2>&1 &
demo=$!
trap 'kill $demo 2>/dev/null; wait $demo 2>/dev/null || true' EXIT
# Ports of a region lie in a row from the base port, each region 20 higher: OTLP gRPC, OTLP HTTP,
# Zipkin, gateway.
for _ in $(seq 300); do
    (exec 3<>/dev/tcp/127.0.0.1/$((base + 43))) 2>/dev/null && break
    sleep 0.1
done
"$directory/venv/bin/python" tests/python/sdk_round_trip.py \
    --grpc 127.0.0.1:$base --http http://127.0.0.1:$((base + 21)) \
    --json http://127.0.0.1:$((base + 41)) --gateway http://127.0.0.1:$((base + 23)) \
    || { tail -20 "$directory/demo.log"; exit 1; }
