#!/usr/bin/env bash
# Apache Kafka (KRaft, no ZooKeeper, no Docker) from Maven Central.
#   kafka.sh install                 fetch the jars (once, 45 MB) and make a class-data archive (50 MB)
#   kafka.sh start [NODE]            format if new, start all nodes (or one), return at once
#   kafka.sh wait [SECONDS]          block until every node is ready (default 90)
#   kafka.sh stop [NODE]             TERM, then KILL after 30 s
#   kafka.sh status                  pid, RSS, ready? per node
#   kafka.sh wipe                    stop and delete the data of this instance
#   kafka.sh tool CLASS [ARGS]       e.g. tool TopicCommand --list   (bootstrap server is added)
#   kafka.sh bin                     where the clients are that readers have: kafka-console-consumer.sh, kafka-consumer-groups.sh
# Settings (environment):
#   KAFKA_NAME=k1          instance; several can run side by side, each with its own IP or port
#   KAFKA_NODES=1          1, or 3 for RF 3 / min ISR 2
#   KAFKA_IP=127.0.0.1     bind address
#   KAFKA_PORT=19092       client port of node i is KAFKA_PORT+i-1; its controller port is +100
#   KAFKA_HEAP=512m  KAFKA_VERSION=4.3.1  FARSPAN_ENGINES=<where everything is kept>  KAFKA_JAVA_HOME
#   KAFKA_EXTRA=''         more server.properties lines (newline separated)
#   KAFKA_JVM_EXTRA=''     more JVM flags
#   KAFKA_FORMAT_EXTRA=''  more words for the formatting, e.g. --add-scram SCRAM-SHA-512=[name=…,password=…]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ENGINES_HOME=${FARSPAN_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/farspan-engines}; mkdir -p "$ENGINES_HOME"
KAFKA_VERSION=${KAFKA_VERSION:-4.3.1}
LOG4J_VERSION=${LOG4J_VERSION:-2.25.3}
KAFKA_NAME=${KAFKA_NAME:-k1}; KAFKA_NODES=${KAFKA_NODES:-1}
KAFKA_IP=${KAFKA_IP:-127.0.0.1}; KAFKA_PORT=${KAFKA_PORT:-19092}; KAFKA_HEAP=${KAFKA_HEAP:-512m}
JAVA=${KAFKA_JAVA_HOME:+$KAFKA_JAVA_HOME/bin/}java
base=$ENGINES_HOME/kafka
libs=$base/$KAFKA_VERSION/libs
run=$base/run/$KAFKA_NAME
die() { echo "kafka.sh: $*" >&2; exit 1; }
nodes() { if [ -n "${1:-}" ]; then echo "$1"; else seq 1 "$KAFKA_NODES"; fi; }
cport() { echo $((KAFKA_PORT + $1 - 1)); }
kport() { echo $((KAFKA_PORT + 100 + $1 - 1)); }
voters() { local v=() i; for i in $(seq 1 "$KAFKA_NODES"); do v+=("$i@$KAFKA_IP:$(kport "$i")"); done; (IFS=,; echo "${v[*]}"); }
bootstrap() { local v=() i; for i in $(seq 1 "$KAFKA_NODES"); do v+=("$KAFKA_IP:$(cport "$i")"); done; (IFS=,; echo "${v[*]}"); }

# pid of node $1 if it is alive and really ours
pid_of() {
  local f=$run/n$1/pid p
  [ -f "$f" ] || return 1
  p=$(cat "$f")
  [ -r "/proc/$p/cmdline" ] && tr '\0' ' ' <"/proc/$p/cmdline" | grep -qF "$run/n$1/server.properties" || return 1
  echo "$p"
}

install() {
  [ -f "$base/$KAFKA_VERSION/.done" ] && { echo "kafka $KAFKA_VERSION already in $libs"; return; }
  command -v mvn >/dev/null || die "mvn is missing (apt-get install -y maven)"
  mkdir -p "$base/$KAFKA_VERSION"
  cat >"$base/$KAFKA_VERSION/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka-dist</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <!-- the command line tools (TopicCommand, ConsumerGroupCommand, ...) without Kafka Connect -->
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version>
      <exclusions>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-api</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-json</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-transforms</artifactId></exclusion>
      </exclusions></dependency>
    <!-- Kafka's POM names no log binding (it is added only in the release tarball) -->
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>$LOG4J_VERSION</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$LOG4J_VERSION</version></dependency>
  </dependencies>
</project>
XML
  rm -rf "$libs"
  mvn -q -B -ntp -f "$base/$KAFKA_VERSION/pom.xml" dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$libs"
  touch "$base/$KAFKA_VERSION/.done"
  train
  echo "kafka $KAFKA_VERSION: $(ls "$libs" | wc -l) jars, $(du -sh "$libs" | cut -f1) in $libs"
}

# The clients of Kafka's distribution by their names there, where each is such a line as well.
clients() {
  local bin=$base/$KAFKA_VERSION/bin name class
  mkdir -p "$bin"
  while read -r name class; do
    printf '#!/bin/sh\nexec "%s" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "%s/*" org.apache.kafka.tools.%s "$@"\n' \
      "$JAVA" "$libs" "$class" >"$bin/$name.$$"
    chmod +x "$bin/$name.$$"
    mv "$bin/$name.$$" "$bin/$name"
  done <<'LIST'
kafka-console-consumer.sh consumer.ConsoleConsumer
kafka-consumer-groups.sh consumer.group.ConsumerGroupCommand
LIST
}

# one short run that writes a class-data archive: later starts need half the CPU (4.1 s -> 2.1 s)
train() {
  local jsa=$base/$KAFKA_VERSION/cds.jsa
  rm -f "$jsa"
  ( export KAFKA_NAME=_train KAFKA_NODES=1 KAFKA_IP=127.0.0.1 KAFKA_PORT=$((20000 + RANDOM % 9000)) KAFKA_JVM_EXTRA="-XX:ArchiveClassesAtExit=$jsa -Xlog:cds=off"
    "$0" start && "$0" wait 300 && "$0" wipe ) >/dev/null || echo "no class-data archive (the run for it failed); starts will be slower" >&2
}

configure() { # node
  local i=$1 d=$run/n$1 rf=$(( KAFKA_NODES < 3 ? 1 : 3 )) isr=$(( KAFKA_NODES < 3 ? 1 : 2 ))
  mkdir -p "$d/data" "$d/log"
  cat >"$d/server.properties" <<P
process.roles=broker,controller
node.id=$i
listeners=PLAINTEXT://$KAFKA_IP:$(cport "$i"),CONTROLLER://$KAFKA_IP:$(kport "$i")
advertised.listeners=PLAINTEXT://$KAFKA_IP:$(cport "$i")
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters=$(voters)
broker.rack=rack-$i
log.dirs=$d/data
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=$rf
min.insync.replicas=$isr
offsets.topic.replication.factor=$rf
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=$rf
transaction.state.log.min.isr=$isr
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=$rf
share.coordinator.state.topic.min.isr=$isr
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
num.replica.fetchers=1
num.recovery.threads.per.data.dir=2
background.threads=2
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=134217728
log.retention.hours=6
message.max.bytes=4194304
replica.fetch.max.bytes=4194304
# small heaps: bound what one request may hold
socket.request.max.bytes=33554432
queued.max.request.bytes=67108864
# quicker failure detection than the defaults (9 s broker session; groups 6-45 s); later lines (KAFKA_EXTRA) win
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
group.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.session.timeout.ms=3000
group.consumer.session.timeout.ms=6000
${KAFKA_EXTRA:-}
P
  cat >"$d/log4j2.properties" <<P
status=warn
appender.f.type=RollingFile
appender.f.name=F
appender.f.fileName=$d/log/server.log
appender.f.filePattern=$d/log/server.log.%i
appender.f.layout.type=PatternLayout
appender.f.layout.pattern=%d{ISO8601} %p %m (%c)%n
appender.f.policies.type=Policies
appender.f.policies.size.type=SizeBasedTriggeringPolicy
appender.f.policies.size.size=20MB
appender.f.strategy.type=DefaultRolloverStrategy
appender.f.strategy.max=2
rootLogger.level=info
rootLogger.appenderRef.f.ref=F
P
}

jvm() {
  echo -XX:+UseSerialGC -XX:+PerfDisableSharedMem -Djava.awt.headless=true
  [ ! -f "$base/$KAFKA_VERSION/cds.jsa" ] || echo "-XX:SharedArchiveFile=$base/$KAFKA_VERSION/cds.jsa"
}

start() {
  [ -f "$base/$KAFKA_VERSION/.done" ] || die "run '$0 install' first"
  mkdir -p "$run"
  # one cluster id per instance: 16 random bytes, base64url, not starting with '-'
  [ -s "$run/cluster.id" ] || echo "A$(head -c16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=' | cut -c2-22)" >"$run/cluster.id"
  local i d formats=()
  for i in $(nodes "${1:-}"); do
    pid_of "$i" >/dev/null && continue
    configure "$i"
    d=$run/n$i
    [ -f "$d/data/meta.properties" ] && continue
    "$JAVA" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile="$d/log4j2.properties" \
      -cp "$libs/*" kafka.tools.StorageTool format -t "$(cat "$run/cluster.id")" -c "$d/server.properties" ${KAFKA_FORMAT_EXTRA:-} >"$d/log/format.out" 2>&1 &
    formats+=($!)
  done
  for i in "${formats[@]}"; do wait "$i" || { cat "$run"/n*/log/format.out >&2; die "format failed"; }; done
  for i in $(nodes "${1:-}"); do
    if pid_of "$i" >/dev/null; then echo "node $i already runs"; continue; fi
    d=$run/n$i
    : >"$d/log/server.log"
    # a small -Xms: the default (1/64 of the RAM) would be touched at once
    # shellcheck disable=SC2046
    setsid nohup "$JAVA" -Xms48m -Xmx"$KAFKA_HEAP" $(jvm) ${KAFKA_JVM_EXTRA:-} -Dlog4j2.configurationFile="$d/log4j2.properties" \
      -cp "$libs/*" kafka.Kafka "$d/server.properties" >"$d/log/stdout.log" 2>&1 </dev/null &
    echo $! >"$d/pid"
    local t=0; until pid_of "$i" >/dev/null || [ $((t += 1)) -gt 40 ]; do sleep 0.05; done   # exec has happened
    echo "node $i: pid $! on $KAFKA_IP:$(cport "$i")"
  done
}

# ready: own process, 'Kafka Server started' in this run's log, and the client port accepts
ready() {
  pid_of "$1" >/dev/null && grep -q 'Kafka Server started' "$run/n$1/log/server.log" 2>/dev/null \
    && (exec 3<>"/dev/tcp/$KAFKA_IP/$(cport "$1")") 2>/dev/null
}
wait_ready() {
  local limit=${1:-90} end i; end=$((SECONDS + limit))
  for i in $(seq 1 "$KAFKA_NODES"); do
    until ready "$i"; do
      pid_of "$i" >/dev/null || { tail -n 20 "$run/n$i/log/server.log" "$run/n$i/log/stdout.log" >&2 || true; die "node $i is not running"; }
      [ $SECONDS -lt $end ] || { tail -n 20 "$run/n$i/log/server.log" >&2; die "node $i not ready after ${limit}s"; }
      sleep 0.2
    done
  done
  echo "ready: $(bootstrap)"
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
  install) install; clients ;;
  bin) echo "$base/$KAFKA_VERSION/bin" ;;
  start) start "${2:-}" ;;
  wait) wait_ready "${2:-}" ;;
  stop) stop "${2:-}" ;;
  status) for i in $(nodes); do
      if p=$(pid_of "$i"); then echo "node $i pid $p rss $(awk '/VmRSS/{print int($2/1024)}' /proc/"$p"/status)MB $(ready "$i" && echo ready || echo starting)"; else echo "node $i down"; fi; done ;;
  wipe) stop; rm -rf "$run" ;;
  tool) c=$2; shift 2; case $c in ConsumerGroupCommand) c=consumer.group.ConsumerGroupCommand ;; esac
        exec "$JAVA" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$libs/*" "org.apache.kafka.tools.$c" --bootstrap-server "$(bootstrap)" "$@" ;;
  *) sed -n '2,23p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
