#!/usr/bin/env bash
# Apache Cassandra from Maven Central (no Docker, no tarball), one node or several nodes/DCs on 127.0.0.x.
#   cassandra.sh install             fetch the jars (once, 62 MB) and make a class-data archive (59 MB)
#   cassandra.sh start [NODE]        start all nodes (or one), return at once
#   cassandra.sh wait [SECONDS]      until each node answers a CQL OPTIONS frame and sees all peers (default 180)
#   cassandra.sh stop [NODE]         TERM (drains), then KILL after 30 s
#   cassandra.sh status | wipe
#   cassandra.sh nodetool NODE ARGS  e.g. nodetool 1 status
#   cassandra.sh sstableloader NODE DIRECTORY/KEYSPACE/TABLE   load a table's files
#   cassandra.sh bin                 where the client is that readers have: cqlsh, of which `install` makes a Python environment
# Settings (environment):
#   CASS_NAME=c1                         instance
#   CASS_NODES="127.0.0.1:dc1"           list of ip:dc[:rack]; two DCs: "127.0.0.1:dc1 127.0.0.2:dc2"
#   CASS_PORT=19042 CASS_STORAGE_PORT=17000 CASS_JMX=17199 (+NODE-1)
#   CASS_HEAP=1g CASS_DIRECT=256m CASS_MEMTABLE=192MiB CASSANDRA_VERSION=5.0.9 FARSPAN_ENGINES=<where everything is kept>
#   CASS_JAVA_HOME=                      must be Java 11 or 17 (17 tested); not newer
#   CASS_AUTH=0                          1: PasswordAuthenticator (cassandra/cassandra)
#   CASS_SYNC=periodic                   batch: a write is answered once its commit log is on disk; periodic: a kill -9 loses the last 100 ms
#   CASS_EXTRA=''                        more cassandra.yaml lines (newline separated)
#   CASS_JVM_EXTRA=''                    more JVM flags; -XX:TieredStopAtLevel=1 halves the start again (not for load)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ENGINES_HOME=${FARSPAN_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/farspan-engines}; mkdir -p "$ENGINES_HOME"
CASSANDRA_VERSION=${CASSANDRA_VERSION:-5.0.9}
CASS_NAME=${CASS_NAME:-c1}
read -ra NODES <<<"${CASS_NODES:-127.0.0.1:dc1}"
CASS_PORT=${CASS_PORT:-19042}; CASS_STORAGE_PORT=${CASS_STORAGE_PORT:-17000}; CASS_JMX=${CASS_JMX:-17199}
CASS_HEAP=${CASS_HEAP:-1g}; CASS_DIRECT=${CASS_DIRECT:-256m}; CASS_AUTH=${CASS_AUTH:-0}; CASS_MEMTABLE=${CASS_MEMTABLE:-192MiB}
CASS_SYNC=${CASS_SYNC:-periodic}
JAVA=${CASS_JAVA_HOME:+$CASS_JAVA_HOME/bin/}java
base=$ENGINES_HOME/cassandra
libs=$base/$CASSANDRA_VERSION/libs
run=$base/run/$CASS_NAME
die() { echo "cassandra.sh: $*" >&2; exit 1; }
nodes() { if [ -n "${1:-}" ]; then echo "$1"; else seq 1 ${#NODES[@]}; fi; }
field() { local IFS=:; set -- ${NODES[$1-1]} "$2"; case ${@: -1} in ip) echo "$1" ;; dc) echo "${2:-dc1}" ;; rack) [ $# -ge 4 ] && echo "$3" || echo rack1 ;; esac; }
seeds() { local v=() i; for i in $(nodes); do v+=("$(field "$i" ip):$CASS_STORAGE_PORT"); done; (IFS=,; echo "${v[*]}"); }

pid_of() {
  local f=$run/n$1/pid p
  [ -f "$f" ] || return 1
  p=$(cat "$f")
  [ -r "/proc/$p/cmdline" ] && tr '\0' ' ' <"/proc/$p/cmdline" | grep -qF "cassandra.storagedir=$run/n$1/data" || return 1
  echo "$p"
}

install() {
  [ -f "$base/$CASSANDRA_VERSION/.done" ] && { echo "cassandra $CASSANDRA_VERSION already in $libs"; return; }
  command -v mvn >/dev/null || die "mvn is missing (apt-get install -y maven)"
  mkdir -p "$base/$CASSANDRA_VERSION"
  cat >"$base/$CASSANDRA_VERSION/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>cassandra-dist</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>$CASSANDRA_VERSION</version></dependency>
  </dependencies>
</project>
XML
  rm -rf "$libs"
  mvn -q -B -ntp -f "$base/$CASSANDRA_VERSION/pom.xml" dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$libs"
  # native parts of other systems are of no use here
  rm -f "$libs"/*osx* "$libs"/*windows* "$libs"/*riscv64* "$libs"/*aarch*
  touch "$base/$CASSANDRA_VERSION/.done"
  train
  echo "cassandra $CASSANDRA_VERSION: $(ls "$libs" | wc -l) jars, $(du -sh "$libs" | cut -f1) in $libs"
}

# cqlsh is a program of its own: Cassandra's archive carries what PyPI has.
client() {
  local venv=$base/cqlsh pins=(cqlsh==6.2.2 cassandra-driver==3.30.1 click==8.5.1 Deprecated==1.3.1 geomet==1.1.0 pure-sasl==0.6.2 wcwidth==0.9.4 wrapt==2.5.2)
  [ "$(cat "$venv/.ok" 2>/dev/null)" = "${pins[*]}" ] && return 0
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check --no-cache-dir --no-deps "${pins[@]}"
  echo "${pins[*]}" >"$venv/.ok"
}

# one short run that writes a class-data archive (8.5 s CPU per start -> 6.5 s). The class path must hold no
# directory for that, hence the rackdc file goes by its system property and not by the class path.
train() {
  local jsa=$base/$CASSANDRA_VERSION/cds.jsa p=$((20000 + RANDOM % 9000))
  rm -f "$jsa"
  ( export CASS_NAME=_train CASS_NODES=127.0.0.1:dc1 CASS_PORT=$p CASS_STORAGE_PORT=$((p + 1)) CASS_JMX=$((p + 2)) CASS_AUTH=0 CASS_EXTRA="" \
      CASS_JVM_EXTRA="-XX:ArchiveClassesAtExit=$jsa -Xlog:cds=off"
    "$0" start && "$0" wait 300 && "$0" wipe ) >/dev/null || echo "no class-data archive (the run for it failed); starts will be slower" >&2
}

configure() { # node
  local d=$run/n$1 ip auth=AllowAllAuthenticator authz=AllowAllAuthorizer
  ip=$(field "$1" ip)
  [ "$CASS_AUTH" = 1 ] && { auth=PasswordAuthenticator; authz=CassandraAuthorizer; }
  mkdir -p "$d/conf" "$d/data" "$d/log"
  cat >"$d/conf/cassandra.yaml" <<Y
cluster_name: $CASS_NAME
num_tokens: ${CASS_VNODES:-16}
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
# every node is a seed: all of a fresh cluster start together and none waits to bootstrap
auto_bootstrap: false
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [ { seeds: "$(seeds)" } ]
endpoint_snitch: GossipingPropertyFileSnitch
listen_address: $ip
rpc_address: $ip
storage_port: $CASS_STORAGE_PORT
native_transport_port: $CASS_PORT
start_native_transport: true
authenticator: $auth
authorizer: $authz
role_manager: CassandraRoleManager
data_file_directories: [ $d/data/data ]
commitlog_directory: $d/data/commitlog
saved_caches_directory: $d/data/saved_caches
hints_directory: $d/data/hints
cdc_raw_directory: $d/data/cdc_raw
commitlog_sync: $CASS_SYNC
$([ "$CASS_SYNC" != periodic ] || echo 'commitlog_sync_period: 1000ms')
commitlog_segment_size: 16MiB
commitlog_total_space: 512MiB
# 5.0 on-disk formats and the trie memtable (both are opt-in)
storage_compatibility_mode: NONE
sstable:
  selected_format: bti
memtable:
  configurations:
    skiplist: { class_name: SkipListMemtable }
    trie: { class_name: TrieMemtable }
    default: { inherits: trie }
memtable_allocation_type: heap_buffers
memtable_heap_space: $CASS_MEMTABLE
memtable_offheap_space: 64MiB
file_cache_size: 64MiB
networking_cache_size: 32MiB
key_cache_size: 16MiB
counter_cache_size: 0MiB
row_cache_size: 0MiB
concurrent_reads: 16
concurrent_writes: 16
concurrent_compactors: 1
compaction_throughput: 64MiB/s
disk_access_mode: mmap_index_only
trickle_fsync: true
hinted_handoff_enabled: true
max_hint_window: 3h
dynamic_snitch: false
internode_compression: dc
batch_size_warn_threshold: 128KiB
batch_size_fail_threshold: 1024KiB
read_request_timeout: 10000ms
write_request_timeout: 5000ms
range_request_timeout: 20000ms
request_timeout: 20000ms
native_transport_max_request_data_in_flight: 32MiB
auto_snapshot: false
incremental_backups: false
user_defined_functions_enabled: false
${CASS_EXTRA:-}
Y
  printf 'dc=%s\nrack=%s\n' "$(field "$1" dc)" "$(field "$1" rack)" >"$d/conf/cassandra-rackdc.properties"
  cat >"$d/conf/logback.xml" <<X
<configuration>
  <appender name="F" class="ch.qos.logback.core.rolling.RollingFileAppender">
    <file>$d/log/system.log</file>
    <rollingPolicy class="ch.qos.logback.core.rolling.FixedWindowRollingPolicy"><fileNamePattern>$d/log/system.log.%i</fileNamePattern><minIndex>1</minIndex><maxIndex>2</maxIndex></rollingPolicy>
    <triggeringPolicy class="ch.qos.logback.core.rolling.SizeBasedTriggeringPolicy"><maxFileSize>20MB</maxFileSize></triggeringPolicy>
    <encoder><pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="F"/></root>
</configuration>
X
}

# Java 17 needs these (from Cassandra's own conf/jvm17-server.options)
JPMS="-Djdk.attach.allowAttachSelf=true
--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED
--add-exports=java.management.rmi/com.sun.jmx.remote.internal.rmi=ALL-UNNAMED
--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED
--add-exports=java.rmi/sun.rmi.server=ALL-UNNAMED
--add-exports=java.sql/java.sql=ALL-UNNAMED
--add-exports=java.base/java.lang.ref=ALL-UNNAMED
--add-exports=jdk.unsupported/sun.misc=ALL-UNNAMED
--add-exports=jdk.compiler/com.sun.tools.javac.file=ALL-UNNAMED
--add-exports=jdk.attach/sun.tools.attach=ALL-UNNAMED
--add-opens=java.base/java.lang.module=ALL-UNNAMED
--add-opens=java.base/jdk.internal.loader=ALL-UNNAMED
--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED
--add-opens=java.base/jdk.internal.reflect=ALL-UNNAMED
--add-opens=java.base/jdk.internal.math=ALL-UNNAMED
--add-opens=java.base/jdk.internal.module=ALL-UNNAMED
--add-opens=java.base/jdk.internal.util.jar=ALL-UNNAMED
--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED
--add-opens=java.base/sun.nio.ch=ALL-UNNAMED
--add-opens=java.base/java.io=ALL-UNNAMED
--add-opens=java.base/java.lang.reflect=ALL-UNNAMED
--add-opens=jdk.compiler/com.sun.tools.javac=ALL-UNNAMED
--add-opens=java.base/java.lang=ALL-UNNAMED
--add-opens=java.base/java.util=ALL-UNNAMED
--add-opens=java.base/java.nio=ALL-UNNAMED
-Dio.netty.tryReflectionSetAccessible=true"

start() {
  [ -f "$base/$CASSANDRA_VERSION/.done" ] || die "run '$0 install' first"
  local i d cds=
  [ ! -f "$base/$CASSANDRA_VERSION/cds.jsa" ] || cds=-XX:SharedArchiveFile=$base/$CASSANDRA_VERSION/cds.jsa
  for i in $(nodes "${1:-}"); do
    if pid_of "$i" >/dev/null; then echo "node $i already runs"; continue; fi
    configure "$i"
    d=$run/n$i
    : >"$d/log/system.log"
    # shellcheck disable=SC2086
    setsid nohup "$JAVA" -ea -da:net.openhft... -Xms64m -Xmx"$CASS_HEAP" -XX:MaxDirectMemorySize="$CASS_DIRECT" -Xss256k \
      -XX:+UseSerialGC -XX:+PerfDisableSharedMem -XX:+ExitOnOutOfMemoryError -Djava.net.preferIPv4Stack=true -Djava.awt.headless=true \
      $JPMS $cds \
      -Dcassandra.config="file://$d/conf/cassandra.yaml" -Dcassandra-rackdc.properties="file://$d/conf/cassandra-rackdc.properties" -Dcassandra.storagedir="$d/data" -Dcassandra.logdir="$d/log" \
      -Dlogback.configurationFile="$d/conf/logback.xml" -Dcassandra-foreground=yes \
      -Dcassandra.jmx.local.port=$((CASS_JMX + i - 1)) -Djava.rmi.server.hostname=127.0.0.1 \
      -Dcassandra.ring_delay_ms=2000 -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.superuser_setup_delay_ms=0 \
      ${CASS_JVM_EXTRA:-} -cp "$libs/*" org.apache.cassandra.service.CassandraDaemon >"$d/log/stdout.log" 2>&1 </dev/null &
    echo $! >"$d/pid"
    local t=0; until pid_of "$i" >/dev/null || [ $((t += 1)) -gt 40 ]; do sleep 0.05; done   # exec has happened
    echo "node $i: pid $! on $(field "$i" ip):$CASS_PORT ($(field "$i" dc))"
  done
}

# ready: own process and the CQL port answers OPTIONS (v4) with SUPPORTED
ready() {
  pid_of "$1" >/dev/null || return 1
  [ "$( { exec 3<>"/dev/tcp/$(field "$1" ip)/$CASS_PORT" && printf '\x04\x00\x00\x01\x05\x00\x00\x00\x00' >&3 && timeout 3 head -c5 <&3 | od -An -tx1 | tr -d ' \n'; } 2>/dev/null)" = 8400000106 ]
}
wait_ready() {
  local limit=${1:-180} end i n; end=$((SECONDS + limit))
  for i in $(nodes); do
    until ready "$i"; do
      pid_of "$i" >/dev/null || { tail -n 30 "$run/n$i/log/system.log" "$run/n$i/log/stdout.log" >&2 || true; die "node $i is not running"; }
      [ $SECONDS -lt $end ] || { tail -n 30 "$run/n$i/log/system.log" >&2; die "node $i not ready after ${limit}s"; }
      sleep 0.3
    done
  done
  # several nodes: each must have marked every other one UP
  if [ ${#NODES[@]} -gt 1 ]; then
    for i in $(nodes); do
      while :; do
        n=$(grep -oE 'InetAddress /[0-9.:]+ is now UP' "$run/n$i/log/system.log" | sort -u | wc -l || true)
        [ "$n" -ge $((${#NODES[@]} - 1)) ] && break
        [ $SECONDS -lt $end ] || die "node $i sees only $n peers up after ${limit}s"
        sleep 0.3
      done
    done
  fi
  local v=(); for i in $(nodes); do v+=("$(field "$i" ip):$CASS_PORT"); done
  echo "ready: ${v[*]}"
}

stop() {
  local i p t
  for i in $(nodes "${1:-}"); do p=$(pid_of "$i") && kill "$p" || true; done
  for i in $(nodes "${1:-}"); do
    t=0
    while p=$(pid_of "$i"); do
      t=$((t + 1)); [ $t -lt 150 ] || { echo "node $i: KILL"; kill -9 "$p"; sleep 0.5; break; }
      sleep 0.2
    done
    rm -f "$run/n$i/pid"
  done
  echo stopped
}

case ${1:-} in
  install) install; client ;;
  bin) echo "$base/cqlsh/bin" ;;
  start) start "${2:-}" ;;
  wait) wait_ready "${2:-}" ;;
  stop) stop "${2:-}" ;;
  status) for i in $(nodes); do
      if p=$(pid_of "$i"); then echo "node $i $(field "$i" ip) $(field "$i" dc) pid $p rss $(awk '/VmRSS/{print int($2/1024)}' /proc/"$p"/status)MB $(ready "$i" && echo ready || echo starting)"; else echo "node $i down"; fi; done ;;
  wipe) stop; rm -rf "$run" ;;
  nodetool) n=$2; shift 2
    # shellcheck disable=SC2086
    exec "$JAVA" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 $JPMS -Duser.home="$run/n$n" -Dlogback.configurationFile="$run/n$n/conf/logback.xml" -cp "$libs/*" \
      -Dcassandra.config="file://$run/n$n/conf/cassandra.yaml" -Dcassandra.storagedir="$run/n$n/data" \
      org.apache.cassandra.tools.NodeTool -h 127.0.0.1 -p $((CASS_JMX + n - 1)) "$@" ;;
  sstableloader) n=$2; shift 2
    # shellcheck disable=SC2086
    exec "$JAVA" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 $JPMS -Dlogback.configurationFile="$run/n$n/conf/logback.xml" -cp "$libs/*" \
      -Dcassandra.config="file://$run/n$n/conf/cassandra.yaml" -Dcassandra.storagedir="$run/n$n/loader" \
      org.apache.cassandra.tools.BulkLoader -f "$run/n$n/conf/cassandra.yaml" -d "$(field "$n" ip)" -p "$CASS_PORT" "$@" ;;
  *) sed -n '2,22p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
