#!/usr/bin/env bash
# Real ClickHouse 26.9 (PyPI chdb, in process) behind ClickHouse's HTTP interface (ch/ch_http.py). No Docker.
#   clickhouse.sh install | start [NODE] | wait [NODE] [SECS] | stop [NODE] | kill [NODE] | clean [NODE]
# Environment: HOST=127.0.0.1 HTTP_PORT=8123 CONNECTIONS=8 CH_CONFIG=ch/config.xml (storage policies) FARSPAN_ENGINES=<where everything is kept> PYTHON=python3
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=${FARSPAN_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/farspan-engines}/clickhouse; VENV=$ROOT/venv
CMD=${1:?install|start|wait|stop|kill|clean}; NODE=${2:-ch1}
HOST=${HOST:-127.0.0.1}; HTTP_PORT=${HTTP_PORT:-8123}
N=$ROOT/nodes/$NODE; PIDF=$N/pid
PINS=(chdb==4.4.0 chdb-core==26.9.0 lz4==4.4.5 clickhouse-cityhash==1.0.2.6)
alive() { local st; [ -f "$PIDF" ] && st=$(ps -o stat= -p "$(cat "$PIDF")" 2>/dev/null) && [ "${st:0:1}" != Z ]; }   # a killed child may stay a zombie
install() {
  [ "$(cat "$VENV/.ok" 2>/dev/null)" = "${PINS[*]}" ] && return 0
  rm -rf "$VENV"; mkdir -p "$ROOT"; "${PYTHON:-python3}" -m venv "$VENV"
  "$VENV/bin/pip" install -q --no-cache-dir --no-deps "${PINS[@]}"     # --no-deps leaves out pandas and pyarrow (325 MB), which the façade does not use
  echo "${PINS[*]}" > "$VENV/.ok"
}
case $CMD in
install) install;;
start) install; alive && { echo "$NODE already runs"; exit 0; }
  mkdir -p "$N/data" "$N/warm"
  cfg=${CH_CONFIG:-$N/config.xml}
  [ -n "${CH_CONFIG:-}" ] || cat > "$cfg" <<XML
<clickhouse><storage_configuration><disks><warm><type>local</type><path>$N/warm/</path></warm><backups><type>local</type><path>$N/backups/</path></backups></disks>
<policies><tiered><volumes><hot><disk>default</disk></hot><warm><disk>warm</disk></warm></volumes></tiered></policies></storage_configuration>
<backups><allowed_disk>backups</allowed_disk><allowed_path>$N/backups/</allowed_path></backups></clickhouse>
XML
  setsid "$VENV/bin/python" "$HERE/ch/ch_http.py" "$N/data" "$HOST" "$HTTP_PORT" "${CONNECTIONS:-8}" "$cfg" > "$N/out.log" 2>&1 < /dev/null & echo $! > "$PIDF";;
wait) for _ in $(seq $((${3:-60} * 10))); do alive || { tail -20 "$N/out.log" >&2; echo "$NODE died" >&2; exit 1; }
    curl -sf -m 2 "http://$HOST:$HTTP_PORT/ping" >/dev/null && exit 0; sleep 0.1; done; echo timeout >&2; exit 1;;
kill) if alive; then p=$(cat "$PIDF"); kill -9 "$p"; for _ in $(seq 100); do alive || break; sleep 0.1; done; fi;;   # a crash, for tests
stop|clean) if alive; then p=$(cat "$PIDF"); kill "$p"; for _ in $(seq 100); do alive || break; sleep 0.1; done; alive && kill -9 "$p" || true; fi; rm -f "$PIDF"
  [ "$CMD" = clean ] && rm -rf "$N"; true;;
*) echo "unknown $CMD" >&2; exit 2;;
esac
