#!/usr/bin/env bash
# An S3 server: moto 5 from PyPI, objects in its memory, on loopback. Any key and secret will do.
#   objects.sh install | start | wait [SECONDS] | stop | status | wipe
# Settings (environment):
#   OBJECTS_NAME=o1  OBJECTS_IP=127.0.0.1  OBJECTS_PORT=19500  OBJECTS_TLS=    a directory with server.crt and server.key: https
#   PYTHON=python3  FARSPAN_ENGINES
set -euo pipefail
ENGINES_HOME=${FARSPAN_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/farspan-engines}
OBJECTS_NAME=${OBJECTS_NAME:-o1}; OBJECTS_IP=${OBJECTS_IP:-127.0.0.1}; OBJECTS_PORT=${OBJECTS_PORT:-19500}; OBJECTS_TLS=${OBJECTS_TLS:-}
base=$ENGINES_HOME/objects; venv=$base/venv; run=$base/run/$OBJECTS_NAME
PINS=('moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5 joserfc==1.8.0)
scheme=http; [ -z "$OBJECTS_TLS" ] || scheme=https
die() { echo "objects.sh: $*" >&2; exit 1; }
pid_of() {
  local p
  [ -f "$run/pid" ] || return 1
  p=$(cat "$run/pid")
  [ -r "/proc/$p/cmdline" ] && tr '\0' ' ' <"/proc/$p/cmdline" | grep -qF "moto_server" || return 1
  echo "$p"
}
install() {
  [ "$(cat "$venv/.ok" 2>/dev/null)" = "${PINS[*]}" ] && return 0
  rm -rf "$venv"; mkdir -p "$base"; "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q --no-cache-dir "${PINS[@]}"
  echo "${PINS[*]}" >"$venv/.ok"
}
start() {
  [ -x "$venv/bin/moto_server" ] || die "run '$0 install' first"
  pid_of >/dev/null && { echo "already runs"; return; }
  mkdir -p "$run"
  local tls=()
  [ -z "$OBJECTS_TLS" ] || tls=(-c "$OBJECTS_TLS/server.crt" -k "$OBJECTS_TLS/server.key")
  setsid nohup "$venv/bin/python" "$venv/bin/moto_server" -H "$OBJECTS_IP" -p "$OBJECTS_PORT" "${tls[@]}" >"$run/out.log" 2>&1 </dev/null &
  echo $! >"$run/pid"
}
wait_ready() {
  local end=$((SECONDS + ${1:-60}))
  until curl -skf -m 2 -o /dev/null "$scheme://$OBJECTS_IP:$OBJECTS_PORT/moto-api/data.json"; do
    pid_of >/dev/null && [ $SECONDS -lt $end ] || { tail -n 5 "$run/out.log" >&2; die "not ready"; }
    sleep 0.1
  done
  echo "ready: $scheme://$OBJECTS_IP:$OBJECTS_PORT"
}
stop() {
  local p t=0
  p=$(pid_of) && kill "$p" || true
  while p=$(pid_of); do t=$((t + 1)); [ $t -lt 50 ] || { kill -9 "$p"; sleep 0.2; break; }; sleep 0.1; done
  rm -f "$run/pid"; echo stopped
}
case ${1:-} in
  install) install ;; start) start ;; wait) wait_ready "${2:-}" ;; stop) stop ;;
  status) if p=$(pid_of); then echo "pid $p"; else echo down; fi ;;
  wipe) stop; rm -rf "$run" ;;
  *) sed -n '2,6p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
