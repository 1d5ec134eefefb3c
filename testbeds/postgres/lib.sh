# lib.sh — what run.sh and up.sh share: finding the server's programs, making a cluster, starting it on a free port.

# The server refuses to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid "${PGTB_OS_USER:-postgres}" --regid "${PGTB_OS_USER:-postgres}" --clear-groups --)

# Sets $bin: the folder of the server's programs, from $PGTB_BIN, of a Debian package, or on the path.
find_programs() {
  bin=${PGTB_BIN:-}
  [ -n "$bin" ] || bin=$(find /usr/lib/postgresql -path '*/bin/initdb' 2> /dev/null | sort -V | tail -1 | xargs -r dirname)
  [ -n "$bin" ] || bin=$(command -v initdb | xargs -r dirname)
  [ -n "$bin" ] && [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ]
}

# The same, and installs them where they are missing and that is possible. Fails with the reason as the last line.
have_programs() {
  find_programs && return 0
  [ -z "${PGTB_BIN:-}" ] || { echo "no PostgreSQL server in $PGTB_BIN" >&2; return 3; }
  [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null ||
    { echo "no PostgreSQL server is installed, and only root on Debian can install it" >&2; return 3; }
  echo "installing postgresql" >&2
  local made= status=0
  # The package would start a server of its own.
  [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; made=1; }
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=600 postgresql >&2; }
  install || { apt-get update -q -o DPkg::Lock::Timeout=600 >&2 && install; } || status=3
  [ -z "$made" ] || rm -f /usr/sbin/policy-rc.d
  [ "$status" = 0 ] && find_programs || { echo "no PostgreSQL server is installed, and its package cannot be installed" >&2; return 3; }
}

# make_cluster FOLDER: a fresh cluster in FOLDER/data with the superuser provisor; with $PGTB_TLS also FOLDER/ca.pem and a
# server certificate of it for 127.0.0.1.
make_cluster() {
  "${as[@]}" sh -c 'umask 077; printf provisor > "$0/password"' "$1"
  "${as[@]}" "$bin/initdb" -D "$1/data" -U provisor -A scram-sha-256 --pwfile="$1/password" -E UTF8 --locale=C.UTF-8 \
    > "$1/initdb.log" 2>&1 || { cat "$1/initdb.log" >&2; return 1; }
  options="-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=400 -c shared_buffers=64MB \
    -c timezone=UTC ${PGTB_OPTIONS:-}"
  [ -n "${PGTB_TLS:-}" ] || return 0
  "${as[@]}" sh -ec 'cd "$0"; umask 077
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 3650 -subj "/CN=test bed CA"
    openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj "/CN=127.0.0.1"
    printf "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n" > server.ext
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 3650 -extfile server.ext' \
    "$1" > "$1/openssl.log" 2>&1 || { cat "$1/openssl.log" >&2; return 1; }
  options="$options -c ssl=on -c ssl_cert_file=$1/server.pem -c ssl_key_file=$1/server.key"
}

# start FOLDER: starts it on a free port; sets $url, $port and, of the process, $server.
start() {
  local log=$1/postgres.log
  for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 12000))
    # shellcheck disable=SC2086 # several words
    "${as[@]}" setsid "$bin/postgres" -D "$1/data" -p "$port" $options > "$log" 2>&1 < /dev/null 9>&- &
    server=$!
    for _ in $(seq 600); do
      if "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && kill -0 "$server" 2> /dev/null; then
        url=postgres://provisor:provisor@127.0.0.1:$port/postgres
        return 0
      fi
      kill -0 "$server" 2> /dev/null || break
      sleep 0.1
    done
    grep -q "Address already in use" "$log" || break
  done
  cat "$log" >&2
  return 1
}
