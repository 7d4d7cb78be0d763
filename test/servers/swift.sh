#!/usr/bin/env bash
# A real OpenStack Swift for tests, one node and one replica, with TempAuth (v1) and Keystone (v3). See lib.sh.
# Needs the Debian packages swift-proxy swift-account swift-container swift-object memcached python3-keystone
# python3-keystonemiddleware curl openssl.
set -euo pipefail
kind=swift offset=120
. "$(dirname "$0")/lib.sh"
proxy=$base tls=$((base + 1)) account=$((base + 2)) container=$((base + 3)) object=$((base + 4)) memcached=$((base + 5)) keystone=$((base + 6)) keyed=$((base + 7))
conf=$home/conf

# storage KIND PORT WORKERS [LINE…]: an account, container or object server's configuration.
storage() {
  printf '%s\n' '[DEFAULT]' "bind_ip = $host" "bind_port = $2" "workers = $3" "user = $(id -un)" "swift_dir = $conf" \
    "devices = $home/disks" 'mount_check = false' 'log_level = WARNING' 'fallocate_reserve = 0' \
    '[pipeline:main]' "pipeline = $1-server" "[app:$1-server]" "use = egg:swift#$1" "${@:4}" >"$conf/$1.conf"
}

# gateway NAME PORT WORKERS AUTH [LINE…]: a proxy server's configuration.
gateway() {
  cat >"$conf/$1.conf" <<CONF
[DEFAULT]
bind_ip = $host
bind_port = $2
workers = $3
user = $(id -un)
swift_dir = $conf
log_level = WARNING
$(printf '%s\n' "${@:5}")
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats tempurl $4 bulk copy slo dlo container-quotas proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
conn_timeout = 5
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
user_other_tester = testing2 .admin
[filter:cache]
use = egg:swift#memcache
memcache_servers = $host:$memcached
memcache_max_connections = 64
pool_timeout = 30
io_timeout = 30
connect_timeout = 30
error_suppression_limit = 1000000
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
auth_url = http://$host:$keystone
www_authenticate_uri = http://$host:$keystone
auth_type = password
interface = public
username = admin
password = secret
project_name = admin
user_domain_id = default
project_domain_id = default
delay_auth_decision = true
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin
reseller_prefix = KEY
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:slo]
use = egg:swift#slo
rate_limit_under_size = 1
$(for each in catch_errors gatekeeper healthcheck listing_formats tempurl bulk copy dlo; do
  printf '[filter:%s]\nuse = egg:swift#%s\n' $each $each; done)
CONF
}

manage() { keystone-manage --config-file "$conf/keystone.conf" "$@" >>"$home/keystone-manage.log" 2>&1; }

# identity: Keystone's configuration and database.
identity() {
  [ -s "$home/keystone/db" ] && return
  mkdir -p "$home"/keystone/{fernet,credential}; chmod 700 "$home"/keystone/*/
  printf '%s\n' '[DEFAULT]' 'use_stderr = true' '[database]' "connection = sqlite:///$home/keystone/db" '[fernet_tokens]' \
    "key_repository = $home/keystone/fernet" '[credential]' "key_repository = $home/keystone/credential" \
    '[cache]' 'enabled = false' >"$conf/keystone.conf"
  manage db_sync
  # Keystone reads while it writes, which SQLite only bears with this journal.
  python3 -c "import sqlite3; sqlite3.connect('$home/keystone/db').execute('PRAGMA journal_mode = WAL')"
  for each in fernet credential; do manage ${each}_setup --keystone-user "$(id -un)" --keystone-group "$(id -gn)"; done
  for each in two one; do
    manage bootstrap --bootstrap-password secret --bootstrap-public-url "http://$host:$keystone/v3" --bootstrap-region-id $each
  done
}

# catalogue: where Swift is, by region and interface, and an application credential.
catalogue() {
  [ -s "$home/application" ] && return
  local url=http://$host:$keystone/v3 token service user
  local admin='{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"admin","domain":{"id":"default"},"password":"secret"}}},"scope":{"project":{"name":"admin","domain":{"id":"default"}}}}}'
  token=$(curl -sfi "$url/auth/tokens" -H 'content-type: application/json' -d "$admin" | tr -d '\r' | sed -n 's/^X-Subject-Token: //Ip')
  post() { curl -sf "$url/$1" -H "x-auth-token: $token" -H 'content-type: application/json' -d "$2"; }
  pick() { grep -o "\"$1\": *\"[^\"]*\"" | head -n 1 | sed 's/.*"\([^"]*\)"$/\1/'; }
  service=$(post services '{"service":{"type":"object-store","name":"swift"}}' | pick id)
  endpoint() { post endpoints "{\"endpoint\":{\"service_id\":\"$service\",\"interface\":\"$1\",\"region_id\":\"$2\",\"url\":\"$3/v1/KEY_\$(project_id)s\"}}" >/dev/null; }
  endpoint public one "http://$host:$keyed"
  endpoint public two "http://$host:9"
  endpoint internal one "http://localhost:$keyed"
  user=$(curl -sf "$url/auth/tokens" -H "x-auth-token: $token" -H "x-subject-token: $token" | grep -o '"user": *{[^}]*}[^}]*}' | grep -o '"id": *"[0-9a-f]\{32\}"' | pick id)
  post "users/$user/application_credentials" '{"application_credential":{"name":"stowage","secret":"applied"}}' | pick id >"$home/application"
}

up() {
  mkdir -p "$conf" "$home/disks/one"
  certificate
  printf '%s\n' '[swift-hash]' 'swift_hash_path_suffix = s' 'swift_hash_path_prefix = p' '[storage-policy:0]' \
    'name = Policy-0' 'default = yes' \
    '[swift-constraints]' 'container_listing_limit = 500' >"$conf/swift.conf"
  local ring
  for ring in account:$account container:$container object:$object; do
    [ -s "$conf/${ring%:*}.ring.gz" ] || (cd "$conf" && swift-ring-builder "${ring%:*}.builder" create 4 1 0 &&
      swift-ring-builder "${ring%:*}.builder" add "r1z1-$host:${ring#*:}/one" 1 &&
      swift-ring-builder "${ring%:*}.builder" rebalance) >/dev/null
  done
  storage account $account 0
  storage container $container 2
  storage object $object 2 'container_update_timeout = 30' # else listings lag behind writes under load
  gateway proxy $proxy 2 tempauth
  gateway keyed $keyed 0 'authtoken keystoneauth'
  gateway tls $tls 0 tempauth "cert_file = $home/cert.pem" "key_file = $home/key.pem"
  identity &
  local making=$!
  begin memcached $memcached memcached -l $host -p $memcached -U 0 -m 64 -u "$(id -un)"
  begin account $account swift-account-server "$conf/account.conf" -v
  begin container $container swift-container-server "$conf/container.conf" -v
  begin object $object swift-object-server "$conf/object.conf" -v
  begin proxy $proxy swift-proxy-server "$conf/proxy.conf" -v
  begin keyed $keyed swift-proxy-server "$conf/keyed.conf" -v
  begin tls $tls swift-proxy-server "$conf/tls.conf" -v
  wait $making
  begin keystone $keystone keystone-wsgi-public -b $host -p $keystone -- --config-file "$conf/keystone.conf"
  catalogue
  echo "{\"host\":\"$host\",\"port\":$proxy,\"tlsPort\":$tls,\"keystonePort\":$keystone,\"memcachedPort\":$memcached,\"ca\":\"$home/cert.pem\",\"application\":\"$(cat "$home/application")\"}"
}

main "$@"
