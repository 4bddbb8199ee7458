#!/usr/bin/env bash
# A real Apache Kafka broker on loopback, for the end-to-end tests.
#
#   broker.sh fetch            download the broker's jars once; prints the folder they are in
#   broker.sh start DIR PORT   start a single node (KRaft) with its data in DIR; returns when clients can use it
#   broker.sh stop DIR         SIGTERM, and wait until it has ended
#   broker.sh kill DIR         SIGKILL, and wait until it is gone; what it had acknowledged is in DIR
#
# The jars live in $NODESCOPE_TEST_KAFKA_HOME, by default ${XDG_CACHE_HOME:-$HOME/.cache}/nodescope/kafka. Where they come
# from is Maven's business (its settings name the repository). The broker flushes as Apache Kafka does by default,
# which is to say when the system likes: a killed broker keeps everything, a machine without power may not.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${NODESCOPE_TEST_KAFKA_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/nodescope/kafka}
start_timeout=${NODESCOPE_TEST_KAFKA_START_TIMEOUT:-90} # seconds
stop_timeout=${NODESCOPE_TEST_KAFKA_STOP_TIMEOUT:-60}   # seconds

fail() {
  echo "broker.sh: $*" >&2
  exit 1
}

usage() {
  sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

# The jars are complete when this file says that they came from this very pom.
marker=$home/complete
fetched() {
  [[ -f $marker && $(<"$marker") == "$(sha256sum <"$here/pom.xml")" ]]
}

fetch() {
  if ! fetched; then
    command -v mvn >/dev/null || fail "mvn is needed to fetch Apache Kafka"
    rm -rf "$home"
    mkdir -p "$home"
    mvn --batch-mode --quiet --no-transfer-progress --file "$here/pom.xml" dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$home/lib" >&2
    sha256sum <"$here/pom.xml" >"$marker"
  fi
  echo "$home"
}

java_run() { # LOG-LEVEL HEAP CLASS ARGUMENT...
  local level=$1 heap=$2
  shift 2
  exec java "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Djava.awt.headless=true \
    -Dorg.slf4j.simpleLogger.defaultLogLevel="$level" -Dorg.slf4j.simpleLogger.showDateTime=true \
    -cp "$home/lib/*" "$@"
}

# Whether DIR/pid names a process that is alive and is the broker of this very directory, not a stranger that was given
# the same number since.
alive() { # DIR
  local pid
  [[ -s $1/pid ]] || return 1
  pid=$(<"$1/pid")
  [[ -r /proc/$pid/cmdline ]] && tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -Fxq "$1/server.properties"
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

answers() { # PORT
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

is_free() { # PORT
  ! answers "$1"
}

# Waits for a condition, looking ten times a second.
until_true() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# The short session lets a killed broker come back at once, instead of waiting until its former self has expired.
write_properties() { # DIR PORT CONTROLLER-PORT
  cat >"$1/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$3
listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3
advertised.listeners=PLAINTEXT://127.0.0.1:$2
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$1/logs
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
}

# Started: the log, which is a new one at each start, says so, and the port answers.
started_or_dead() { # DIR PORT
  ! alive "$1" || { grep -q "Kafka Server started" "$1/broker.log" && answers "$2"; }
}

start() { # DIR PORT
  local dir=$1 port=$2 controller
  [[ $port =~ ^[0-9]+$ ]] || usage
  fetched || fail "no Apache Kafka in $home; run 'broker.sh fetch' first"
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  ! alive "$dir" || fail "a broker is already running in $dir (pid $(<"$dir/pid"))"
  # The threads of a broker that was just killed may hold its port for a moment longer.
  until_true 10 is_free "$port" || fail "port $port is taken"

  # The controller's address is not part of the stored state, so each start may take another port.
  controller=$(free_port)
  write_properties "$dir" "$port" "$controller"
  if [[ ! -f $dir/logs/meta.properties ]]; then
    (java_run warn 256m kafka.tools.StorageTool format --config "$dir/server.properties" \
      --cluster-id nodescope-test-cluster) >"$dir/format.log" 2>&1 || {
      cat "$dir/format.log" >&2
      fail "the storage in $dir could not be formatted"
    }
  fi

  # A session of its own, so that what ends the test does not end the broker halfway through an assertion about it.
  : >"$dir/broker.log"
  (java_run info 512m kafka.Kafka "$dir/server.properties") >>"$dir/broker.log" 2>&1 </dev/null &
  local pid=$!
  echo "$pid" >"$dir/pid"
  disown "$pid"

  # Between fork and exec the process is still this shell, and must not be taken for dead.
  until_true 10 alive "$dir" || true
  if ! until_true "$start_timeout" started_or_dead "$dir" "$port" || ! alive "$dir"; then
    tail -n 40 "$dir/broker.log" >&2
    end "$dir" KILL
    fail "the broker in $dir died or did not start within $start_timeout s; its log is above"
  fi
}

# Gone, or a zombie: a process that was killed loses its command line before it loses its port.
gone() { # PID
  [[ ! -r /proc/$1/stat || $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) =~ ^(Z|X|$) ]]
}

end() { # DIR SIGNAL
  local dir=$1 signal=$2
  if alive "$dir"; then
    local pid
    pid=$(<"$dir/pid")
    kill -s "$signal" "$pid"
    until_true "$stop_timeout" gone "$pid" || fail "the broker in $dir is still there $stop_timeout s after SIG$signal"
  fi
  rm -f "$dir/pid"
}

running_dir() { # DIR
  [[ -d $1 ]] || fail "$1 is no directory"
  (cd "$1" && pwd)
}

case "${1:-} $#" in
"fetch 1") fetch ;;
"start 3") start "$2" "$3" ;;
"stop 2") end "$(running_dir "$2")" TERM ;;
"kill 2") end "$(running_dir "$2")" KILL ;;
*) usage ;;
esac
