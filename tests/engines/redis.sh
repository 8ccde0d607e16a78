#!/usr/bin/env bash
# Redis 7.0 from Debian 12, without its service.
#   redis.sh install | start | wait [SECONDS] | stop | status | wipe | cli ARGS
# Debian's redis-server package is only a link to redis-check-rdb plus a service that would start on port 6379;
# the program itself is in redis-tools, so only that is installed and nothing starts by itself.
# Settings (environment):
#   REDIS_NAME=r1  REDIS_IP=127.0.0.1  REDIS_PORT=16379  REDIS_MAXMEM=256mb  FARSPAN_ENGINES
#   REDIS_TLS_PORT=0      e.g. 16380: TLS besides the plain port; makes a private CA and certificates under tls/
#   REDIS_TLS_CLIENTS=yes yes (client certificates required) | no | optional
#   REDIS_PASSWORD=       if set: requirepass
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ENGINES_HOME=${FARSPAN_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/farspan-engines}; mkdir -p "$ENGINES_HOME"
REDIS_NAME=${REDIS_NAME:-r1}; REDIS_IP=${REDIS_IP:-127.0.0.1}; REDIS_PORT=${REDIS_PORT:-16379}; REDIS_MAXMEM=${REDIS_MAXMEM:-256mb}
REDIS_TLS_PORT=${REDIS_TLS_PORT:-0}; REDIS_TLS_CLIENTS=${REDIS_TLS_CLIENTS:-yes}
base=$ENGINES_HOME/redis; run=$base/run/$REDIS_NAME; tls=$base/tls; bin=$base/redis-server
die() { echo "redis.sh: $*" >&2; exit 1; }
pid_of() {
  local p
  [ -f "$run/pid" ] || return 1
  p=$(cat "$run/pid")
  [ -r "/proc/$p/cmdline" ] && tr '\0' ' ' <"/proc/$p/cmdline" | grep -qF "$run/redis.conf" || return 1
  echo "$p"
}
install() {
  local b
  if ! command -v redis-check-rdb >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-tools >/dev/null
  fi
  b=$(readlink -f "$(command -v redis-check-rdb)")
  mkdir -p "$base"; ln -sfn "$b" "$bin"   # started under this name it is the server
  "$bin" --version
}
certs() {
  [ -f "$tls/client.crt" ] && return
  mkdir -p "$tls"; chmod 700 "$tls"
  local n
  ( cd "$tls"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=lab-ca -keyout ca.key -out ca.crt \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    for n in server client; do
      openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$n" -keyout $n.key -out $n.csr
      openssl x509 -req -in $n.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out $n.crt -extfile <(
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' "$REDIS_IP")
    done ) >/dev/null 2>&1
}
start() {
  [ -x "$bin" ] || die "run '$0 install' first"
  pid_of >/dev/null && { echo "already runs"; return; }
  mkdir -p "$run/data"
  { cat <<R
bind $REDIS_IP
port $REDIS_PORT
protected-mode yes
daemonize no
set-proc-title no
dir $run/data
logfile $run/redis.log
save ""
appendonly no
maxmemory $REDIS_MAXMEM
maxmemory-policy allkeys-lfu
maxmemory-clients 10%
tcp-backlog 511
io-threads 1
lazyfree-lazy-eviction yes
lazyfree-lazy-expire yes
tracking-table-max-keys 100000
R
    [ -n "${REDIS_PASSWORD:-}" ] && echo "requirepass $REDIS_PASSWORD"
    if [ "$REDIS_TLS_PORT" != 0 ]; then
      certs
      cat <<R
tls-port $REDIS_TLS_PORT
tls-cert-file $tls/server.crt
tls-key-file $tls/server.key
tls-ca-cert-file $tls/ca.crt
tls-auth-clients $REDIS_TLS_CLIENTS
tls-protocols "TLSv1.2 TLSv1.3"
R
    fi; } >"$run/redis.conf"
  chmod 600 "$run/redis.conf"
  setsid nohup "$bin" "$run/redis.conf" >"$run/stdout.log" 2>&1 </dev/null &
  echo $! >"$run/pid"
  local t=0; until pid_of >/dev/null || [ $((t += 1)) -gt 40 ]; do sleep 0.05; done   # exec has happened
  echo "pid $! on $REDIS_IP:$REDIS_PORT$([ "$REDIS_TLS_PORT" != 0 ] && echo " tls $REDIS_TLS_PORT")"
}
cli() { redis-cli -h "$REDIS_IP" -p "$REDIS_PORT" ${REDIS_PASSWORD:+--no-auth-warning -a "$REDIS_PASSWORD"} "$@"; }
wait_ready() {
  local end=$((SECONDS + ${1:-15}))
  until [ "$(cli ping 2>/dev/null)" = PONG ]; do
    [ $SECONDS -lt $end ] || { tail -n 5 "$run/redis.log" "$run/stdout.log" >&2; die "not ready"; }
    sleep 0.05
  done
  pid_of >/dev/null || die "something else answers on $REDIS_IP:$REDIS_PORT"
  echo "ready: $REDIS_IP:$REDIS_PORT"
}
stop() {
  local p t=0
  p=$(pid_of) && kill "$p" || true
  while p=$(pid_of); do t=$((t + 1)); [ $t -lt 100 ] || { kill -9 "$p"; sleep 0.2; break; }; sleep 0.1; done
  rm -f "$run/pid"; echo stopped
}
case ${1:-} in
  install) install ;; start) start ;; wait) wait_ready "${2:-}" ;; stop) stop ;;
  status) if p=$(pid_of); then echo "pid $p rss $(awk '/VmRSS/{print int($2/1024)}' /proc/"$p"/status)MB"; else echo down; fi ;;
  wipe) stop; rm -rf "$run" ;; cli) shift; cli "$@" ;;
  *) sed -n '2,11p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
