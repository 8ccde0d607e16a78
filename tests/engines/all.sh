#!/usr/bin/env bash
# All engines at once, one node each, on loopback.
#   all.sh needs              install from Debian what the other scripts need and this machine lacks (as root)
#   all.sh install            fetch the engines (once)
#   all.sh start              start them all, return when each is ready
#   all.sh stop | wipe        stop them; `wipe` also deletes their data
#   all.sh env                print `export FARSPAN_TEST_…=…` lines: where the conformance suites find them
# FARSPAN_TEST_OPENSEARCH=off leaves OpenSearch out.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"
export KAFKA_NAME=all KAFKA_PORT=${KAFKA_PORT:-29092} KAFKA_HEAP=${KAFKA_HEAP:-384m}
export CASS_NAME=all CASS_PORT=${CASS_PORT:-29042} CASS_STORAGE_PORT=${CASS_STORAGE_PORT:-27000} CASS_JMX=${CASS_JMX:-27199}
# Suites make and drop hundreds of tables here, on a node that nobody kills: a change of the schema need not be on disk at once.
export CASS_HEAP=${CASS_HEAP:-1g} CASS_JVM_EXTRA=${CASS_JVM_EXTRA:--XX:TieredStopAtLevel=1 -Dcassandra.test.flush_local_schema_changes=false}
export REDIS_NAME=all REDIS_PORT=${REDIS_PORT:-26379}
export OBJECTS_NAME=all OBJECTS_PORT=${OBJECTS_PORT:-29500}
es() { HTTP_PORT=${ES_PORT:-29200} TRANSPORT_PORT=${ES_TRANSPORT:-29300} HEAP=${ES_HEAP:-512m} ES_FAST=1 ./elasticsearch.sh "$1" all "${@:2}"; }
os() { [ "${FARSPAN_TEST_OPENSEARCH:-}" = off ] || HTTP_PORT=${OS_PORT:-29201} TRANSPORT_PORT=${OS_TRANSPORT:-29301} HEAP=${OS_HEAP:-512m} ES_FAST=1 ./opensearch.sh "$1" all "${@:2}"; }
ch() { HTTP_PORT=${CH_PORT:-28123} ./clickhouse.sh "$1" all "${@:2}"; }

needs() {
  local lack=()
  command -v mvn >/dev/null || lack+=(maven)
  [ -x /usr/lib/jvm/java-17-openjdk-amd64/bin/javac ] || command -v javac >/dev/null || lack+=(openjdk-17-jdk-headless)
  command -v curl >/dev/null || lack+=(curl)
  command -v unzip >/dev/null || lack+=(unzip)
  command -v openssl >/dev/null || lack+=(openssl)
  command -v ps >/dev/null || lack+=(procps)
  python3 -c 'import ensurepip, venv' 2>/dev/null || lack+=(python3 python3-venv)
  [ ${#lack[@]} = 0 ] || { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${lack[@]}" >/dev/null; }
}

case ${1:-} in
  needs) needs ;;
  install) ./kafka.sh install; ./cassandra.sh install; ./redis.sh install; es install; os install; ch install; ./objects.sh install ;;
  start)
    ./kafka.sh start; ./cassandra.sh start; ./redis.sh start; es start; os start; ch start; ./objects.sh start
    ./kafka.sh wait; ./cassandra.sh wait; ./redis.sh wait; es wait; os wait; ch wait; ./objects.sh wait ;;
  stop) ./kafka.sh stop; ./cassandra.sh stop; ./redis.sh stop; es stop; os stop; ch stop; ./objects.sh stop ;;
  wipe) ./kafka.sh wipe; ./cassandra.sh wipe; ./redis.sh wipe; es clean; os clean; ch clean; ./objects.sh wipe ;;
  env)
    echo "export FARSPAN_TEST_KAFKA=127.0.0.1:$KAFKA_PORT"
    echo "export FARSPAN_TEST_CASSANDRA=127.0.0.1:$CASS_PORT"
    echo "export FARSPAN_TEST_ELASTICSEARCH=http://127.0.0.1:${ES_PORT:-29200}"
    [ "${FARSPAN_TEST_OPENSEARCH:-}" = off ] || echo "export FARSPAN_TEST_OPENSEARCH=http://127.0.0.1:${OS_PORT:-29201}"
    echo "export FARSPAN_TEST_CLICKHOUSE=http://127.0.0.1:${CH_PORT:-28123}"
    echo "export FARSPAN_TEST_REDIS=redis://127.0.0.1:$REDIS_PORT"
    echo "export FARSPAN_TEST_OBJECTS=http://127.0.0.1:$OBJECTS_PORT" ;;
  *) sed -n '2,9p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
