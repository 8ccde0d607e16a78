#!/usr/bin/env bash
# A full disk: senders get retryable refusals, nothing acknowledged is lost, and the cell recovers
# by itself when there is room. Needs root (it mounts a small tmpfs) and curl.
#   tests/full_disk.sh [FARSPAN]
set -euo pipefail
cd "$(dirname "$0")/.."
farspan=${1:-target/release/farspan}
[ "$(id -u)" = 0 ] || { echo "needs root: it mounts a tmpfs"; exit 2; }
command -v curl >/dev/null || { apt-get update -qq && apt-get install -y -qq curl; }
work=$(mktemp -d)
mkdir "$work/disk"
mount -t tmpfs -o size=900m tmpfs "$work/disk"
pids=()
finish() {
    kill -9 "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    umount "$work/disk"
    rm -rf "$work"
}
trap finish EXIT
fail() { echo "FAILED: $1"; tail -n 5 "$work"/cell.log "$work"/write.log; exit 1; }

cat > "$work/cell.yaml" <<YAML
kind: cell
region: eu-west-1
data_dir: $work/disk/cell
listen:
  otlp_grpc: 127.0.0.1:25000
  otlp_http: 127.0.0.1:25001
  zipkin: 127.0.0.1:25002
  internal: 127.0.0.1:25003
  admin: 127.0.0.1:25004
log:
  segment: 16MiB
YAML
start_cell() {
    "$farspan" cell --config "$work/cell.yaml" >> "$work/cell.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 300); do
        curl -sf http://127.0.0.1:25004/readyz >/dev/null && return 0
        sleep 0.1
    done
    fail "the cell is not ready"
}
write() {
    "$farspan" bench write --collector http://127.0.0.1:25000 --spans "$1" --ledger "$work/$2" \
        --seconds 20 --json >> "$work/write.log" 2>&1 || true
}
answer() {
    curl -s -o "$work/body" -D "$work/head" -w '%{http_code}' -H 'content-type: application/json' \
        --data '{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","name":"x","startTimeUnixNano":"1","endTimeUnixNano":"2"}]}]}]}' \
        http://127.0.0.1:25001/v1/traces || true
}

start_cell
write 200000 before
dd if=/dev/zero of="$work/disk/ballast" bs=1M count=900 status=none 2>/dev/null || true
# What the log has allocated already may still be filled.
write 400000 during
[ "$(answer)" = 503 ] || [ "$(answer)" = 429 ] || fail "a full disk answers $(answer), not 503"
grep -qi '^retry-after:' "$work/head" || fail "the refusal names no time to retry"
echo "ok: a full disk is refused, retryably: $(head -c 120 "$work/body" | tr -d '\n')"

rm "$work/disk/ballast"
for _ in $(seq 100); do
    [ "$(answer)" = 200 ] && recovered=yes && break
    sleep 0.1
done
[ "${recovered:-no}" = yes ] || fail "no recovery within 10 s of there being room: $(answer)"
echo "ok: it recovered by itself"

write 100000 after
kill -9 "${pids[0]}"
wait "${pids[0]}" 2>/dev/null || true
start_cell
for ledger in before during after; do
    "$farspan" bench read --cell http://127.0.0.1:25003 --ledger "$work/$ledger" --all --json \
        || fail "something that was acknowledged is lost (ledger $ledger)"
done
echo "ok: all that was acknowledged is there after a kill"
