#!/usr/bin/env bash
# run.sh — a private PostgreSQL for tests: prints its URL, lives until its standard input ends, leaves nothing behind.
# With PGTB_TLS=1 it speaks TLS, and the second line is the file of its CA.
#
# Durable as in production (fsync on). Needs the server's programs (see lib.sh).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
find_programs || { echo "no PostgreSQL server is installed" >&2; exit 3; }
cd /
folder=$("${as[@]}" mktemp -d "${TMPDIR:-/tmp}/provisor-postgres.XXXXXX")
server=
finish() {
  [ -z "$server" ] || { kill -INT "$server" 2> /dev/null; wait "$server" 2> /dev/null; } || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP
make_cluster "$folder"
start "$folder"
echo "$url"
[ -z "${PGTB_TLS:-}" ] || echo "$folder/ca.pem"
cat > /dev/null || true
