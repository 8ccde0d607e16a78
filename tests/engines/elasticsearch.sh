#!/usr/bin/env bash
# Real Elasticsearch from Maven Central jars, no Docker, may run as root.
#   elasticsearch.sh install              resolve jars, lay out ES_HOME (idempotent)
#   elasticsearch.sh start [NODE]         start one node (default "es1"), returns at once
#   elasticsearch.sh wait  [NODE] [SECS]  until HTTP answers and the cluster is at least yellow
#   elasticsearch.sh stop  [NODE]         TERM by pid, wait for exit;  `clean NODE` also drops its data
# Environment (per node): ES_VERSION=8.19.21 (Java 17+) | 9.5.3 (Java 21+); HOST=127.0.0.1 HTTP_PORT=9200 TRANSPORT_PORT=9300
#   CLUSTER=lab DATA_ATTR=hot ZONE= HEAP=1g ES_FAST=1 (C1 only) ES_OPTS="jvm flags" ES_EXTRA="key=value ..." ; more than one node: SEEDS=127.0.0.1:9300,127.0.0.1:9301 MASTERS=es1
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
V=${ES_VERSION:-8.19.21}; ROOT=${FARSPAN_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/farspan-engines}/es-$V; H=$ROOT/home
CMD=${1:?install|start|wait|stop|clean}; NODE=${2:-es1}
HOST=${HOST:-127.0.0.1}; HTTP_PORT=${HTTP_PORT:-9200}; TRANSPORT_PORT=${TRANSPORT_PORT:-9300}
N=$ROOT/nodes/$NODE; PIDF=$N/pid
MVN=(mvn -q -B -ntp); [ -n "${MAVEN_REPO:-}" ] && MVN+=(-Dmaven.repo.local="$MAVEN_REPO")
need=17; case $V in 9.*) need=21;; esac
for j in "${JAVA_HOME:-}" /usr/lib/jvm/java-17-openjdk-amd64 /usr/lib/jvm/temurin-*; do
  [ -n "$j" ] && [ -x "$j/bin/javac" ] || continue
  m=$("$j/bin/java" -version 2>&1 | sed -nE '1s/.*"([0-9]+).*/\1/p'); [ "$m" -ge $need ] && { JH=$j; break; }
done
: "${JH:?no JDK >= $need found}"
install() {
  made_of=$(cat "$HERE/es/src/EsNode.java" "$HERE/es/src/RestRoot.java" "$HERE/es/pom.xml" | sha256sum)
  [ "$(cat "$H/.ok" 2>/dev/null)" = "$made_of" ] && return 0
  rm -rf "$H" "$ROOT/app.jsa"; mkdir -p "$H"/{lib/platform/linux-x64,modules/transport-netty4,modules/x-pack-core,plugins/dev-root,config,jars,classes}
  "${MVN[@]}" -f "$HERE/es/pom.xml" -Des.version="$V" dependency:copy-dependencies -DoutputDirectory="$H/jars" >&2
  for f in "$H"/jars/*.jar; do case ${f##*/} in
    transport-netty4-*|netty-*) mv "$f" "$H/modules/transport-netty4/";;
    elasticsearch-ssl-config-*) cp "$f" "$H/modules/transport-netty4/"; mv "$f" "$H/modules/x-pack-core/";;
    x-pack-*|http*|commons-*|unboundid*|log4j-slf4j2*|slf4j-api*) mv "$f" "$H/modules/x-pack-core/";;
    *) mv "$f" "$H/lib/";; esac; done
  # descriptors ship inside the jars; dropping modulename loads them as plain class-path plugins
  for m in transport-netty4 x-pack-core; do
    unzip -p "$H/modules/$m/$m-$V.jar" "META-INF/es-plugins/$m/plugin-descriptor.properties" | sed '/^modulename=/d' > "$H/modules/$m/plugin-descriptor.properties"; done
  z=$(ls /usr/lib/x86_64-linux-gnu/libzstd.so.1 /lib/x86_64-linux-gnu/libzstd.so.1 2>/dev/null | head -1)   # Debian package libzstd1 (always there)
  ln -sf "$z" "$H/lib/platform/linux-x64/libzstd.so"
  args="org.elasticsearch.common.settings.Settings a, org.elasticsearch.common.io.stream.NamedWriteableRegistry b, RestController c0, org.elasticsearch.common.settings.ClusterSettings d, org.elasticsearch.common.settings.IndexScopedSettings e, org.elasticsearch.common.settings.SettingsFilter g, org.elasticsearch.cluster.metadata.IndexNameExpressionResolver i,"
  case $V in 9.*) args="ActionPlugin.RestHandlersServices s,";; esac
  mkdir -p "$ROOT/gen"; sed "s/@ARGS@/$args/" "$HERE/es/src/RestRoot.java" > "$ROOT/gen/RestRoot.java"
  "$JH/bin/javac" -nowarn --release $need -cp "$H/lib/*" -d "$H/classes" "$HERE/es/src/EsNode.java"
  "$JH/bin/jar" cf "$H/lib/es-node.jar" -C "$H/classes" . && rm -r "$H/classes"
  "$JH/bin/javac" -nowarn --release $need -cp "$H/lib/*" -d "$ROOT/gen/classes" "$ROOT/gen/RestRoot.java" 2>&1 | grep -v '^Note' >&2 || true
  "$JH/bin/jar" cf "$H/plugins/dev-root/dev-root.jar" -C "$ROOT/gen/classes" .
  printf 'description=GET /\nversion=1\nname=dev-root\nclassname=RestRoot\njava.version=%s\nelasticsearch.version=%s\n' $need "$V" > "$H/plugins/dev-root/plugin-descriptor.properties"
  printf '%s\n' 'status = error' 'appender.c.type = Console' 'appender.c.name = c' 'appender.c.layout.type = PatternLayout' \
    'appender.c.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] [%node_name] %m%n' 'rootLogger.level = info' 'rootLogger.appenderRef.c.ref = c' > "$H/config/log4j2.properties"
  : > "$H/config/elasticsearch.yml"
  if [ "${ES_CDS:-1}" = 1 ]; then   # class-data archive from one throw-away run: start drops from 4.8 s to 2.4 s
    t=$(mktemp -d); "$JH/bin/java" -Xms512m -Xmx512m -XX:+UseG1GC -XX:ArchiveClassesAtExit="$ROOT/app.jsa" -Xlog:cds=off -Xlog:cds+dynamic=off -Des.path.home="$H" -Des.distribution.type=tar "${opt[@]}" -cp "$H/lib/*" EsNode "$H" \
      cluster.name=cds node.name=cds network.host=127.0.0.1 http.port=0 transport.port=0 discovery.type=single-node path.data="$t/d" path.logs="$t/l" > "$t/out" 2>&1 & p=$!
    for _ in $(seq 600); do grep -q '\] started {' "$t/out" && break; kill -0 $p 2>/dev/null || break; sleep 0.2; done; sleep 1; kill $p 2>/dev/null || true; wait $p || true; rm -rf "$t"
  fi
  echo "$made_of" > "$H/.ok"
}
opt=(); case $V in 9.*) opt=(--enable-native-access=ALL-UNNAMED --add-modules=jdk.incubator.vector -Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false);; esac
alive() { local st; [ -f "$PIDF" ] && st=$(ps -o stat= -p "$(cat "$PIDF")" 2>/dev/null) && [ "${st:0:1}" != Z ]; }   # a killed child may stay a zombie
case $CMD in
install) install;;
start) install; alive && { echo "$NODE already runs"; exit 0; }
  mkdir -p "$N/data" "$N/logs" "$ROOT/repo"
  set -- cluster.name="${CLUSTER:-lab}" node.name="$NODE" network.host="$HOST" http.port="$HTTP_PORT" transport.port="$TRANSPORT_PORT" \
    path.data="$N/data" path.logs="$N/logs" path.repo="[$ROOT/repo]" node.attr.data="${DATA_ATTR:-hot}" ${ZONE:+node.attr.zone=$ZONE} \
    cluster.routing.allocation.disk.threshold_enabled=false ${ES_EXTRA:-}
  if [ -n "${SEEDS:-}" ]; then set -- "$@" discovery.seed_hosts="[$SEEDS]" ${MASTERS:+cluster.initial_master_nodes="[$MASTERS]"}
  else set -- "$@" discovery.type=single-node; fi
  [ -f "$ROOT/app.jsa" ] && opt+=(-XX:SharedArchiveFile="$ROOT/app.jsa")
  [ -n "${ES_FAST:-}" ] && opt+=(-XX:TieredStopAtLevel=1)   # tests: quickest start, about 2/3 of the throughput
  setsid "$JH/bin/java" -Xms${HEAP:-1g} -Xmx${HEAP:-1g} -XX:+UseG1GC -Des.path.home="$H" -Des.distribution.type=tar -Djava.io.tmpdir="${TMPDIR:-/tmp}" ${ES_OPTS:-} "${opt[@]}" \
    -cp "$H/lib/*" EsNode "$H" "$@" > "$N/logs/out.log" 2>&1 < /dev/null & echo $! > "$PIDF";;
wait) for _ in $(seq $((${3:-120} * 4))); do alive || { tail -30 "$N/logs/out.log" >&2; echo "$NODE died" >&2; exit 1; }
    curl -sf -m 5 "http://$HOST:$HTTP_PORT/_cluster/health?wait_for_status=yellow&timeout=1s" >/dev/null && exit 0; sleep 0.25; done; echo timeout >&2; exit 1;;
stop|clean) if alive; then p=$(cat "$PIDF"); kill "$p"; for _ in $(seq 120); do alive || break; sleep 0.25; done; alive && kill -9 "$p" || true; fi; rm -f "$PIDF"
  [ "$CMD" = clean ] && rm -rf "$N"; true;;
*) echo "unknown $CMD" >&2; exit 2;;
esac
