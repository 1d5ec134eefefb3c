#!/usr/bin/env bash
# run.sh — a private PostgreSQL for tests: prints its URL, lives until its standard input ends, leaves nothing behind.
#
# Durable as in production (fsync on). Needs the server's programs: those of $PGTB_BIN, of a Debian package, or on the path.
set -euo pipefail
bin=${PGTB_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -V | tail -1)}
[ -n "$bin" ] || bin=$(dirname "$(command -v initdb)") || { echo "no PostgreSQL server is installed" >&2; exit 3; }
# The server refuses to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid "${PGTB_OS_USER:-postgres}" --regid "$(id -g "${PGTB_OS_USER:-postgres}")" --clear-groups --)
cd /
folder=$("${as[@]}" mktemp -d "${TMPDIR:-/tmp}/provisor-postgres.XXXXXX")
server=
finish() {
  [ -z "$server" ] || { kill -INT "$server" 2> /dev/null; wait "$server" 2> /dev/null; } || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP
"${as[@]}" sh -c 'umask 077; printf provisor > "$0/password"' "$folder"
"${as[@]}" "$bin/initdb" -D "$folder/data" -U provisor -A scram-sha-256 --pwfile="$folder/password" -E UTF8 --locale=C.UTF-8 \
  > "$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; exit 1; }
for _ in 1 2 3 4 5; do
  port=$((20000 + RANDOM % 12000))
  "${as[@]}" "$bin/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c max_connections=400 -c shared_buffers=64MB -c timezone=UTC ${PGTB_OPTIONS:-} > "$folder/postgres.log" 2>&1 < /dev/null &
  server=$!
  for _ in $(seq 600); do
    if "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && kill -0 "$server" 2> /dev/null; then
      echo "postgres://provisor:provisor@127.0.0.1:$port/postgres"
      cat > /dev/null || true
      exit 0
    fi
    kill -0 "$server" 2> /dev/null || break
    sleep 0.1
  done
  grep -q "Address already in use" "$folder/postgres.log" || break
done
cat "$folder/postgres.log" >&2
exit 1
