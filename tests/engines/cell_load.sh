#!/usr/bin/env bash
# What a cell on real engines uses under load: processor time a span and anonymous memory of its own
# processes, together and each by itself. Prints the report of `farspan bench write`.
#   cell_load.sh FARSPAN [roles|groups|collector] [SPANS] [what `farspan bench write` takes more]
#     FARSPAN   the binary, a release build
#     roles     a collector, a querier, and one ingester with all groups (this where nothing is said)
#     groups    the same, but an ingester for each group: what each costs
#     collector a collector alone, in front of 64 partitions
#     SPANS     300000 where nothing is said; half a kilobyte each, ten attributes
# With LOAD_SAMPLES=FOLDER perf samples each process meanwhile: FOLDER/NAME.perf. cell_stages.sh does so and folds them.
# Engines: `eval $(all.sh env)` first. Everything is made under names of its own and removed, but for the
# keyspace farspan_load and the topics, which their retention empties.
set -euo pipefail
farspan=${1:?the farspan binary}; mode=${2:-roles}; spans=${3:-300000}
: "${FARSPAN_TEST_KAFKA:?}" "${FARSPAN_TEST_CASSANDRA:?}" "${FARSPAN_TEST_ELASTICSEARCH:?}" "${FARSPAN_TEST_CLICKHOUSE:?}"
case $mode in
  roles) ingesters=(all) ;;
  collector) ingesters=() ;;
  groups) ingesters=(storage-writer search-indexer metrics-aggregator metadata-publisher analytics-writer) ;;
  *) sed -n '2,12p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
run=load-$(date +%s)
home=$(mktemp -d)
pids=()
watched=()
declare -A process before samplers

finish() {
  for name in "${!samplers[@]}"; do kill "${samplers[$name]}" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  curl -sS -o /dev/null -X DELETE "$FARSPAN_TEST_ELASTICSEARCH/_index_template/$run*" || true
  local index
  for index in $(curl -sS "$FARSPAN_TEST_ELASTICSEARCH/_cat/indices/$run*?h=index&expand_wildcards=all"); do
    curl -sS -o /dev/null -X DELETE "$FARSPAN_TEST_ELASTICSEARCH/$index" || true
  done
  curl -sS -o /dev/null "$FARSPAN_TEST_CLICKHOUSE/" --data-binary "DROP DATABASE IF EXISTS ${run//-/_} SYNC" || true
  rm -rf "$home"
}
trap finish EXIT

# A process's file: its name, its first port of five, more lines.
write_file() {
  local name=$1 port=$2
  cat >"$home/$name.yaml" <<YAML
kind: cell
region: eu-west-1
data_dir: $home/$name
profile: growth
head: {rate: 1.0}
listen:
  otlp_grpc: 127.0.0.1:$port
  otlp_http: 127.0.0.1:$((port + 1))
  zipkin: 127.0.0.1:$((port + 2))
  internal: 127.0.0.1:$((port + 3))
  admin: 127.0.0.1:$((port + 4))
kafka: {brokers: ["$FARSPAN_TEST_KAFKA"], prefix: $run., partitions: $([ "$mode" = collector ] && echo 64 || echo 8), replication: 1}
cassandra: {nodes: ["$FARSPAN_TEST_CASSANDRA"], datacenter: dc1, keyspace: farspan_load, replication: {dc1: 1}}
elasticsearch: {urls: ["$FARSPAN_TEST_ELASTICSEARCH"], prefix: $run, shards: 1}
clickhouse: {url: "$FARSPAN_TEST_CLICKHOUSE", database: ${run//-/_}}
${3:-}
YAML
}

# Starts a process and waits until it is ready: its name, role, first port.
start() {
  local name=$1 role=$2 port=$3
  "$farspan" cell --role "$role" --config "$home/$name.yaml" >"$home/$name.log" 2>&1 &
  pids+=($!); process[$name]=$!; watched+=(--server-pid "$name=$!")
  for _ in $(seq 600); do
    curl -fsS -o /dev/null "http://127.0.0.1:$((port + 4))/readyz" 2>/dev/null && return
    kill -0 "${pids[-1]}" 2>/dev/null || break
    sleep 0.2
  done
  echo "$name is not ready:" >&2; tail -5 "$home/$name.log" >&2; exit 1
}

# Processor time that a process has used, in microseconds.
cpu() {
  local fields
  read -ra fields <"/proc/$1/stat"
  echo $(((fields[13] + fields[14]) * 1000000 / $(getconf CLK_TCK)))
}

# Records that a process has yet to commit. Metrics-aggregator commits records with later ones: what it has yet to take.
behind() {
  local page=$((port + 14)) metric=farspan_span_log_lag_records group=$1
  case $1 in
    collector | querier) echo 0; return ;;
    ingester) group='[^m]|group="metadata' ;;
    metrics-aggregator) page=$((port + 44)) metric=farspan_ingester_lag_records ;;
  esac
  curl -fsS "http://127.0.0.1:$page/metrics" |
    awk -v line="^$metric.*(group=\"$group)" '$0 ~ line {sum += $NF} END {print sum + 0}'
}

# Samples of a process and the threads that it begins, with 32 KiB of stack each: frames of futures, and of librdkafka
# (16 KiB in one), are large.
sample() {
  perf record --event cpu-clock --freq 499 --call-graph dwarf,32768 --mmap-pages 1024 \
    --output "$LOAD_SAMPLES/$1.perf" --pid "$2" >"$LOAD_SAMPLES/$1.log" 2>&1 &
  samplers[$1]=$!
  until [ -s "$LOAD_SAMPLES/$1.perf" ]; do is_sampling "$1"; sleep 0.1; done
}

is_sampling() {
  kill -0 "${samplers[$1]}" 2>/dev/null || { echo "perf has ended: $(cat "$LOAD_SAMPLES/$1.log")" >&2; exit 1; }
}

end_samples() {
  is_sampling "$1"
  kill -INT "${samplers[$1]}"
  wait "${samplers[$1]}" || true
  unset "samplers[$1]"
}

port=${LOAD_PORT:-18100}
write_file collector "$port"
write_file querier $((port + 10))
"$farspan" store init --config "$home/collector.yaml" >&2
place=$((port + 20))
for name in "${ingesters[@]}"; do
  if [ "$name" = all ]; then write_file ingester $place
  else write_file "$name" $place "ingester: {groups: [$name]}"; fi
  place=$((place + 10))
done
place=$((port + 20))
for name in "${ingesters[@]}"; do
  [ "$name" = all ] && name=ingester
  start "$name" ingester $place
  place=$((place + 10))
done
[ "$mode" = collector ] || start querier querier $((port + 10))
start collector collector "$port"
for name in "${!process[@]}"; do
  [ -z "${LOAD_SAMPLES:-}" ] || sample "$name" "${process[$name]}"
  before[$name]=$(cpu "${process[$name]}")
done
"$farspan" bench write --collector "http://127.0.0.1:$port" --spans "$spans" \
  $([ "$mode" = collector ] || echo --settle 900) "${watched[@]}" "${@:4}"
# A group that waits for a busy engine looks settled to the bench. What a process has used until its group had
# committed everything is in `whole` alone.
deadline=$((SECONDS + 900))
while [ ${#process[@]} != 0 ]; do
  for name in "${!process[@]}"; do
    [ "$(behind "$name")" = 0 ] || continue
    used=$(($(cpu "${process[$name]}") - before[$name]))
    [ -z "${LOAD_SAMPLES:-}" ] || end_samples "$name"
    awk "BEGIN {printf \"%s_whole_cpu_us_per_span %.2f\\n\", \"$name\", $used / $spans}"
    unset "process[$name]"
  done
  [ $SECONDS -lt $deadline ] || { echo "behind still: ${!process[*]}" >&2; exit 1; }
  sleep 0.5
done
