#!/bin/bash
# up.sh — start a real OpenStack Zed control plane (Debian 12 packages) on 127.0.0.1 with fake
# compute, fake volumes, fake network agents and guests that answer on floating IPs.  Idempotent; root; no systemd; no kernel modules.
#   up.sh            install if needed, configure, start what is not running, create demo data
#   up.sh --fresh    stop, drop databases and queues, start again (from the seed when there is one)
set -euo pipefail
. "$(dirname "$0")/env.sh"
[ "$(id -u)" = 0 ] || { echo "root only" >&2; exit 1; }
mkdir -p "$(dirname "$OSTB_STATE")"; exec 9> "$OSTB_STATE.lock"; flock 9     # one up.sh at a time
T0=$(date +%s.%N); TL=$T0
mkdir -p "$OSTB_STATE"; : > "$OSTB_STATE/timings.txt"
step() { local n; n=$(date +%s.%N); printf '%-34s %6.1f s\n' "$1" "$(echo "$n - $TL" | bc)" | tee -a "$OSTB_STATE/timings.txt" >&2; TL=$n; }
command -v bc > /dev/null || bc() { awk "BEGIN {printf \"%.3f\", $(cat)}"; }

if [ "${1:-}" = --fresh ]; then "$HERE/down.sh"; rm -rf "${OSTB_STATE:?}"; mkdir -p "$OSTB_STATE"; shift; fi
umask 022
mkdir -p "$CONF" "$LOGS" "$PIDS" "$OSTB_STATE"/{mysql,rabbit,glance/images,glance/staging,nova/instances,cinder,neutron,lock,run,keys,seed}
[ -e "$OSTB_FAULTS" ] || echo '{}' > "$OSTB_FAULTS"

# ---------------------------------------------------------------- packages
PACKAGES="python3-keystone python3-glance glance-common python3-placement placement-common python3-nova nova-common python3-neutron neutron-common python3-cinder cinder-common mariadb-server rabbitmq-server uwsgi-core uwsgi-plugin-python3 memcached python3-pymysql python3-cryptography python3-venv qemu-utils curl procps"
missing=$(for p in $PACKAGES; do dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || echo "$p"; done)
if [ -n "$missing" ]; then
  export DEBIAN_FRONTEND=noninteractive
  install() { apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=900 -o Dpkg::Options::=--force-confold $PACKAGES >> "$LOGS/apt.log" 2>&1; }
  update() { echo "apt-get update" >&2; apt-get update -o DPkg::Lock::Timeout=900 >> "$LOGS/apt.log" 2>&1; }
  : > "$LOGS/apt.log"; made=; updated=
  [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; made=1; }   # no daemon of theirs starts
  trap '[ -z "$made" ] || rm -f /usr/sbin/policy-rc.d' EXIT
  for p in $missing; do apt-cache show "$p" > /dev/null 2>&1 || { update || true; updated=1; break; }; done   # lists absent or without it
  install || { [ -z "$updated" ] && update && install; } || { tail "$LOGS/apt.log" >&2; exit 1; }              # or out of date
  [ -z "$made" ] || rm -f /usr/sbin/policy-rc.d; made=
fi
step "packages"

# ---------------------------------------------------------------- configuration
KS=http://127.0.0.1:$OSTB_PORT_KEYSTONE/v3
db() { echo "mysql+pymysql://os:$OSTB_PASSWORD@127.0.0.1:$OSTB_DB_PORT/$1?charset=utf8"; }
AMQP="rabbit://os:$OSTB_PASSWORD@127.0.0.1:$OSTB_AMQP_PORT//"
cred() { cat <<X
auth_type = password
auth_url = $KS
username = $1
password = $OSTB_PASSWORD
project_name = service
user_domain_name = Default
project_domain_name = Default
region_name = RegionOne
X
}
authtoken() { echo "[keystone_authtoken]"; cred "$1"; cat <<X
www_authenticate_uri = $KS
service_token_roles = service
service_token_roles_required = true
memcached_servers = 127.0.0.1:$OSTB_MEMCACHED_PORT
token_cache_time = 300
[oslo_messaging_rabbit]
heartbeat_in_pthread = false
heartbeat_timeout_threshold = 60
[oslo_concurrency]
lock_path = $OSTB_STATE/lock
[oslo_messaging_notifications]
driver = noop
X
}
dbsection() { printf '[%s]\nconnection = %s\nmax_pool_size = 5\nmax_overflow = 60\n' "$1" "$(db "$2")"; }
common() { cat <<X
[DEFAULT]
debug = false
use_stderr = false
log_file = $LOGS/$1.log
transport_url = $AMQP
host = $OSTB_HOST
rpc_response_timeout = 60
X
}
cat > "$CONF/keystone.conf" <<X
[DEFAULT]
log_file = $LOGS/keystone.log
use_stderr = false
[database]
connection = $(db keystone)
[token]
provider = fernet
expiration = 86400
[fernet_tokens]
key_repository = $OSTB_STATE/keys/fernet
[fernet_receipts]
key_repository = $OSTB_STATE/keys/fernet
[credential]
key_repository = $OSTB_STATE/keys/credential
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = dogpile.cache.memory
[oslo_messaging_notifications]
driver = noop
X
mkdir -p "$CONF/placement"
cat > "$CONF/placement/placement.conf" <<X
[DEFAULT]
log_file = $LOGS/placement.log
use_stderr = false
[api]
auth_strategy = keystone
[placement_database]
connection = $(db placement)
[keystone_authtoken]
www_authenticate_uri = $KS
memcached_servers = 127.0.0.1:$OSTB_MEMCACHED_PORT
$(cred placement)
X
{ cat <<X
[DEFAULT]
log_file = $LOGS/glance.log
use_stderr = false
bind_host = 127.0.0.1
bind_port = $OSTB_PORT_GLANCE
workers = 0
node_staging_uri = file://$OSTB_STATE/glance/staging
transport_url = $AMQP
[paste_deploy]
flavor = keystone
config_file = /etc/glance/glance-api-paste.ini
[glance_store]
stores = file
default_store = file
filesystem_store_datadir = $OSTB_STATE/glance/images
X
authtoken glance; dbsection database glance; } > "$CONF/glance.conf"
{ common nova; cat <<X
my_ip = 127.0.0.1
state_path = $OSTB_STATE/nova
enabled_apis = osapi_compute
osapi_compute_listen = 127.0.0.1
osapi_compute_listen_port = $OSTB_PORT_NOVA
osapi_compute_workers = 1
compute_driver = $OSTB_NOVA_DRIVER
block_device_allocate_retries = 60
block_device_allocate_retries_interval = 1
service_down_time = $OSTB_SERVICE_DOWN
report_interval = 5
periodic_fuzzy_delay = 0
reserved_host_memory_mb = 0
cpu_allocation_ratio = 1.0
ram_allocation_ratio = 1.0
disk_allocation_ratio = 1.0
[wsgi]
api_paste_config = /etc/nova/api-paste.ini
[service_user]
send_service_user_token = true
$(cred nova)
[placement]
$(cred placement)
[neutron]
$(cred neutron)
[cinder]
$(cred cinder)
os_region_name = RegionOne
catalog_info = volumev3::publicURL
[glance]
api_servers = http://127.0.0.1:$OSTB_PORT_GLANCE
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 5
[conductor]
workers = 1
[vnc]
enabled = false
[quota]
instances = 10
cores = 20
ram = 51200
X
authtoken nova; } > "$CONF/nova.conf"            # all that nova-compute gets
{ dbsection api_database nova_api; dbsection database nova; } > "$CONF/nova-db.conf"
{ common neutron; cat <<X
bind_host = 127.0.0.1
bind_port = $OSTB_PORT_NEUTRON
state_path = $OSTB_STATE/neutron
core_plugin = ml2
service_plugins = router
api_paste_config = /etc/neutron/api-paste.ini
api_workers = 1
rpc_workers = 1
rpc_state_report_workers = 0
dhcp_agent_notification = false
agent_down_time = $OSTB_AGENT_DOWN
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
[agent]
report_interval = 5
[nova]
$(cred nova)
[placement]
$(cred placement)
[ml2]
type_drivers = flat,vlan,vxlan,local
tenant_network_types = vxlan
mechanism_drivers = openvswitch
[ml2_type_flat]
flat_networks = public
[ml2_type_vxlan]
vni_ranges = 1:10000
[securitygroup]
enable_security_group = true
X
authtoken neutron; dbsection database neutron; } > "$CONF/neutron.conf"
{ common cinder; cat <<X
my_ip = 127.0.0.1
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = $OSTB_PORT_CINDER
osapi_volume_workers = 1
api_paste_config = /etc/cinder/api-paste.ini
state_path = $OSTB_STATE/cinder
glance_api_servers = http://127.0.0.1:$OSTB_PORT_GLANCE
enabled_backends = testbed
auth_strategy = keystone
report_interval = 5
service_down_time = $OSTB_SERVICE_DOWN
periodic_interval = 5
periodic_fuzzy_delay = 0
backend_stats_polling_interval = 5
image_conversion_dir = $OSTB_STATE/cinder/conversion
[testbed]
volume_driver = $OSTB_CINDER_DRIVER
volume_backend_name = testbed
[coordination]
backend_url = file://$OSTB_STATE/cinder/coordination
[nova]
$(cred nova)
[service_user]
send_service_user_token = true
$(cred cinder)
X
authtoken cinder; dbsection database cinder; } > "$CONF/cinder.conf"
cat > "$CONF/my.cnf" <<X
[mysqld]
user = root
datadir = $OSTB_STATE/mysql
socket = $OSTB_STATE/run/mysqld.sock
pid-file = $OSTB_STATE/run/mysqld.pid
bind-address = 127.0.0.1
port = $OSTB_DB_PORT
skip-name-resolve
max_connections = 600
performance_schema = off
innodb_buffer_pool_size = 192M
innodb_log_file_size = 64M
innodb_flush_log_at_trx_commit = 0
innodb_doublewrite = 0
innodb_flush_method = nosync
sync_frm = 0
sync_binlog = 0
skip-log-bin
character-set-server = utf8
X
cat > "$CONF/rabbitmq.conf" <<X
listeners.tcp.default = 127.0.0.1:$OSTB_AMQP_PORT
default_user = os
default_pass = $OSTB_PASSWORD
loopback_users = none
disk_free_limit.absolute = 50MB
log.file.level = warning
X
echo '[].' > "$CONF/enabled_plugins"
step "configuration"

# ---------------------------------------------------------------- MariaDB and RabbitMQ
wait_for() { local i n=$1; shift; for ((i = 0; i < n * 5; i++)); do "$@" > /dev/null 2>&1 && return 0; sleep 0.2; done; echo "timed out after $n s: $*" >&2; return 1; }
tcp() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
sql() { mariadb --no-defaults -S "$OSTB_STATE/run/mysqld.sock" -u root "$@"; }
rabbit_env=(env "HOME=$OSTB_STATE/rabbit" RABBITMQ_NODENAME=ostb@localhost "RABBITMQ_DIST_PORT=$OSTB_AMQP_DIST_PORT"
  "RABBITMQ_MNESIA_BASE=$OSTB_STATE/rabbit/mnesia" "RABBITMQ_LOG_BASE=$LOGS/rabbit" "RABBITMQ_CONFIG_FILE=$CONF/rabbitmq"
  "RABBITMQ_ENABLED_PLUGINS_FILE=$CONF/enabled_plugins" "RABBITMQ_CONF_ENV_FILE=/dev/null"
  "ERL_EPMD_PORT=$OSTB_EPMD_PORT" ERL_EPMD_ADDRESS=127.0.0.1
  "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none")
[ -d "$OSTB_STATE/mysql/mysql" ] || mariadb-install-db --defaults-file="$CONF/my.cnf" --auth-root-authentication-method=normal --skip-test-db > "$LOGS/mysql-install.log" 2>&1
start mariadb /usr/sbin/mariadbd --defaults-file="$CONF/my.cnf"
start memcached /usr/bin/memcached -u root -l 127.0.0.1 -U 0 -p "$OSTB_MEMCACHED_PORT" -m 64
start epmd "${rabbit_env[@]}" /usr/bin/epmd -address 127.0.0.1 -port "$OSTB_EPMD_PORT"
start rabbitmq "${rabbit_env[@]}" /usr/lib/rabbitmq/bin/rabbitmq-server
wait_for 60 sql -e 'select 1'
step "mariadb up"

# ---------------------------------------------------------------- databases and Keystone
# The seed is a dump taken after all migrations, the Keystone bootstrap and the catalog, before
# any service ran.  It is used when the packages, ports and password are those it was made with.
M() { "$PY" "$HERE/lib/run.py" "$@"; }
NC=(--config-file "$CONF/nova.conf"); NV=("${NC[@]}" --config-file "$CONF/nova-db.conf"); NE=(--config-file "$CONF/neutron.conf"); CI=(--config-file "$CONF/cinder.conf")
KSM=(keystone.cmd.manage:main keystone-manage --config-file "$CONF/keystone.conf")
DBS="keystone glance placement nova_api nova nova_cell0 neutron cinder"
versions() { dpkg-query -W -f '${Package} ${Version}\n' python3-{keystone,glance,placement,nova,neutron,cinder}; echo "$OSTB_PASSWORD $OSTB_DB_PORT $OSTB_AMQP_PORT $OSTB_PORT_KEYSTONE $OSTB_PORT_GLANCE $OSTB_PORT_PLACEMENT $OSTB_PORT_NOVA $OSTB_PORT_NEUTRON $OSTB_PORT_CINDER"; }
key() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; }
for d in fernet credential; do
  mkdir -p -m 700 "$OSTB_STATE/keys/$d"
  for n in 0 1; do [ -e "$OSTB_STATE/keys/$d/$n" ] || key > "$OSTB_STATE/keys/$d/$n"; done   # what keystone-manage fernet_setup writes
done
from_seed=
if [ ! -e "$OSTB_STATE/databases.done" ]; then
  for d in $DBS; do echo "DROP DATABASE IF EXISTS $d; CREATE DATABASE $d CHARACTER SET utf8;"; done | sql
  sql -e "CREATE USER IF NOT EXISTS 'os'@'127.0.0.1' IDENTIFIED BY '$OSTB_PASSWORD'; GRANT ALL ON *.* TO 'os'@'127.0.0.1'; FLUSH PRIVILEGES"
  if [ -e "$OSTB_SEED" ] && [ "$(zcat "$OSTB_SEED" | sed -n '/^-- versions$/,/^-- end$/p' | sed '1d;$d;s/^-- //')" = "$(versions)" ]; then
    zcat "$OSTB_SEED" | sql; from_seed=1; touch "$OSTB_STATE/databases.done"
    step "databases from seed"
  else
    (M "${KSM[@]}" db_sync
     M "${KSM[@]}" bootstrap --bootstrap-password "$OSTB_PASSWORD" --bootstrap-region-id RegionOne \
       --bootstrap-admin-url "$KS" --bootstrap-internal-url "$KS" --bootstrap-public-url "$KS"
     M placement.cmd.manage:main placement-manage --config-file "$CONF/placement/placement.conf" db sync
     M glance.cmd.manage:main glance-manage --config-file "$CONF/glance.conf" db_sync
     M cinder.cmd.manage:main cinder-manage "${CI[@]}" db sync) > "$LOGS/sync1.log" 2>&1 & a=$!
    (M nova.cmd.manage:main nova-manage "${NV[@]}" api_db sync
     M nova.cmd.manage:main nova-manage "${NV[@]}" cell_v2 map_cell0 --database_connection "$(db nova_cell0)"
     M nova.cmd.manage:main nova-manage "${NV[@]}" cell_v2 create_cell --name cell1 --verbose
     M nova.cmd.manage:main nova-manage "${NV[@]}" db sync) > "$LOGS/sync2.log" 2>&1 & b=$!
    M neutron.db.migration.cli:main neutron-db-manage "${NE[@]}" upgrade heads > "$LOGS/sync3.log" 2>&1 & c=$!
    wait $a || { tail "$LOGS/sync1.log" >&2; exit 1; }
    wait $b || { tail "$LOGS/sync2.log" >&2; exit 1; }
    wait $c || { tail "$LOGS/sync3.log" >&2; exit 1; }
    step "databases migrated, bootstrap"
  fi
fi
uw() { # uw NAME PORT WSGI-FILE ENV=…
  local n=$1 p=$2 f=$3; shift 3
  start "$n" env "$@" /usr/bin/uwsgi --plugin python3 --http-socket "127.0.0.1:$p" --wsgi-file "$f" --master --processes 1 \
    --threads 6 --enable-threads --lazy-apps --thunder-lock --buffer-size 65535 --die-on-term --disable-logging --need-app --post-buffering 65536 --add-header 'Connection: close'
}
http() { curl -sf -o /dev/null -m 5 "$1"; }
uw keystone "$OSTB_PORT_KEYSTONE" /usr/bin/keystone-wsgi-public "OS_KEYSTONE_CONFIG_FILES=$CONF/keystone.conf"
if [ ! -e "$OSTB_STATE/databases.done" ]; then
  wait_for 60 http "$KS"
  "$PY" "$HERE/lib/catalog.py" "$KS" "$OSTB_PASSWORD" \
    "image=glance=http://127.0.0.1:$OSTB_PORT_GLANCE" "placement=placement=http://127.0.0.1:$OSTB_PORT_PLACEMENT" \
    "compute=nova=http://127.0.0.1:$OSTB_PORT_NOVA/v2.1" "network=neutron=http://127.0.0.1:$OSTB_PORT_NEUTRON" \
    "volumev3=cinder=http://127.0.0.1:$OSTB_PORT_CINDER/v3/%(project_id)s" \
    "block-storage=cinder=http://127.0.0.1:$OSTB_PORT_CINDER/v3/%(project_id)s"
  step "keystone up, catalog"
  { echo "-- versions"; versions | sed 's/^/-- /'; echo "-- end"
    mariadb-dump --no-defaults -S "$OSTB_STATE/run/mysqld.sock" -u root --databases $DBS; } | gzip -1 > "$OSTB_SEED.new" && mv "$OSTB_SEED.new" "$OSTB_SEED"
  touch "$OSTB_STATE/databases.done"
  step "seed written"
fi
wait_for 60 tcp "$OSTB_AMQP_PORT"
step "rabbitmq up"

# ---------------------------------------------------------------- the rest
R() { start "$2" "$PY" "$HERE/lib/run.py" "$@"; }
uw placement "$OSTB_PORT_PLACEMENT" /usr/bin/placement-api "OS_PLACEMENT_CONFIG_DIR=$CONF/placement"
R nova.cmd.conductor:main nova-conductor "${NV[@]}" --log-file "$LOGS/nova-conductor.log"
R neutron.cmd.eventlet.server:main neutron-server "${NE[@]}"
R glance.cmd.api:main glance-api --config-file "$CONF/glance.conf"
R nova.cmd.api_os_compute:main nova-api "${NV[@]}" --log-file "$LOGS/nova-api.log"
R nova.cmd.scheduler:main nova-scheduler "${NV[@]}" --log-file "$LOGS/nova-scheduler.log"
R cinder.cmd.api:main cinder-api "${CI[@]}" --log-file "$LOGS/cinder-api.log"
R cinder.cmd.scheduler:main cinder-scheduler "${CI[@]}" --log-file "$LOGS/cinder-scheduler.log"
R cinder.cmd.volume:main cinder-volume "${CI[@]}" --log-file "$LOGS/cinder-volume.log"
R nova.cmd.compute:main nova-compute "${NC[@]}" --log-file "$LOGS/nova-compute.log"
R fake_agents:main neutron-agents "${NE[@]}" --log-file "$LOGS/neutron-agents.log"
was=${STARTED:-}
if ! alive guests; then
  for p in 22 80 443; do
    ! (exec 3<> "/dev/tcp/${OSTB_FLOATING_CIDR%.*/*}.1/$p") 2> /dev/null || echo "WARNING: something on this machine already answers port $p on every address: guests cannot listen there" >&2
  done
  start guests "$PY" "$HERE/lib/guests.py" "$LOGS/guests.log" "$OSTB_STATE/keys/guest.pem"
fi
STARTED=$was   # it reports to no service, so nothing to wait for
for p in KEYSTONE GLANCE PLACEMENT NOVA NEUTRON CINDER; do v=OSTB_PORT_$p; wait_for 120 tcp "${!v}"; done
wait_for 60 http "$KS" || { tail -5 "$LOGS/keystone.out" >&2; exit 1; }
step "API ports open"

"$PY" "$HERE/lib/demo.py" "$KS" "$OSTB_PASSWORD" 180 "${STARTED:+${T0%.*}}" >&2
alive guests || { tail "$LOGS/guests.out" >&2; exit 1; }
step "services up, demo data"
cat > "$OSTB_STATE/clouds.yaml" <<X
clouds:
$(for u in admin demo; do cat <<Y
  testbed-$u:
    auth: {auth_url: "$KS", username: $u, password: "$OSTB_PASSWORD", project_name: $u, user_domain_name: Default, project_domain_name: Default}
    region_name: RegionOne
    identity_api_version: 3
Y
done)
X
cat > "$OSTB_STATE/openrc" <<X
export OS_AUTH_URL=$KS OS_USERNAME=demo OS_PASSWORD=$OSTB_PASSWORD OS_PROJECT_NAME=demo
export OS_USER_DOMAIN_NAME=Default OS_PROJECT_DOMAIN_NAME=Default OS_REGION_NAME=RegionOne OS_IDENTITY_API_VERSION=3
X
cpu=$(for f in "$PIDS"/*; do read -r p t < "$f"; ps -o cputimes= -s "$p"; done | awk '{s += $1} END {print s + 0}')
printf '%-34s %6.1f s\n' "(CPU time of the daemons so far)" "$cpu" | tee -a "$OSTB_STATE/timings.txt" >&2
printf '%-34s %6.1f s\n' TOTAL "$(echo "$(date +%s.%N) - $T0" | bc)" | tee -a "$OSTB_STATE/timings.txt" >&2
cp "$OSTB_STATE/openrc" "$OSTB_STATE/env"
echo "# $OSTB_STATE/clouds.yaml holds testbed-demo and testbed-admin (admin / $OSTB_PASSWORD); settings also in $OSTB_STATE/env" >&2
cat "$OSTB_STATE/openrc"   # all of stdout: eval "$(./up.sh)"
