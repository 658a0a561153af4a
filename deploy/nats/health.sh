#!/bin/sh
# The health check of the NATS container: health.sh STORE_DIRECTORY. A server that could not write to its disk stores
# nothing more, also when the disk has room again, until it is started again. So this ends it then, and the engine starts
# the container again (`restart:` in compose.yaml).
set -u
store=$1
# Two of the files that the server writes streams in, 8 MiB each.
room_kib=16384
# Left by a check that found the server well, or its disk full: a restart can repair it. Without either its answer may have
# another cause, such as a stream that cannot be read back, and a restart would not help. In a tmpfs, so it is gone whenever the container starts.
restart_helps=${TMPDIR:-/tmp}/restart-helps
# Left by a check that found it unwell: a stream that is just being made is unwell for a moment, too.
was_unwell=${TMPDIR:-/tmp}/was-unwell

ask() { wget -Y off -qO /dev/null http://127.0.0.1:8222/healthz 2>&1; }

if said=$(ask); then
  touch "$restart_helps"
  rm -f "$was_unwell"
  exit 0
fi
# Only its own word counts: a server that does not answer may be busy, and one that still reads its streams answers 500.
case $said in *" 503 "*) ;; *) exit 1 ;; esac
free_kib=$(df -Pk "$store" | awk 'NR == 2 { print $4 }')
if [ "$free_kib" -lt "$room_kib" ]; then
  echo "the disk of $store is full: nothing can be stored"
  touch "$restart_helps"
elif [ -e "$restart_helps" ] && [ ! -e "$was_unwell" ]; then
  touch "$was_unwell"
elif [ -e "$restart_helps" ]; then
  told="nats-server stores nothing more since a write failed, and $((free_kib / 1024)) MiB are free now: it is started again"
  echo "$told"
  # Into the container's log, too.
  echo "$told" 2>/dev/null > /proc/1/fd/2
  kill "$(pidof nats-server)"
fi
exit 1
