#!/usr/bin/env bash
# up.sh — a PostgreSQL that stays up between test runs; prints its settings as exports. Idempotent.
#   up.sh             installs where needed and possible (root on Debian), starts what is not running
#   up.sh --programs  only installs; ends with 3 and the reason on the last line where it cannot be had
#   up.sh --env       only prints; ends with 1 where it is not up
#   up.sh --down      stops it and removes what it wrote
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
state=${PGTB_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/provisor-testbeds/postgres}
mkdir -p "$state"
exec 9> "$state/lock"
flock 9     # one at a time
cd /

running() { # sets $folder, $port, $server of the one that was started before
  [ -e "$state/server" ] && read -r folder port server < "$state/server" &&
    kill -0 "$server" 2> /dev/null && grep -qs "$folder/data" "/proc/$server/cmdline"
}
show() { echo "export PROVISOR_TEST_POSTGRES_URL=postgres://provisor:provisor@127.0.0.1:$port/postgres"; }

case ${1:-} in
  --programs) have_programs ;;
  --env) running && show ;;
  --down)
    if running; then
      kill -INT "$server"
      for _ in $(seq 300); do kill -0 "$server" 2> /dev/null || break; sleep 0.1; done
    fi
    [ -z "${folder:-}" ] || rm -rf "$folder"
    rm -f "$state/server"
    ;;
  "")
    if ! running; then
      have_programs
      [ -z "${folder:-}" ] || rm -rf "$folder"    # of one that was killed
      folder=$("${as[@]}" mktemp -d "${TMPDIR:-/tmp}/provisor-postgres.XXXXXX")
      make_cluster "$folder"
      start "$folder"
      echo "$folder $port $server" > "$state/server"
    fi
    show
    ;;
  *) echo "up.sh [--programs|--env|--down]" >&2; exit 2 ;;
esac
