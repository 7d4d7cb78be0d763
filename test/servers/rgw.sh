#!/usr/bin/env bash
# A real S3 server for tests: Ceph's RADOS gateway with one monitor and one in-memory object store, all on 127.0.0.1.
#   rgw.sh up     starts it unless it runs, and prints how to reach it as one line of JSON
#   rgw.sh down   ends the processes it started, by id, and removes what they kept
# Needs the Debian packages ceph-mon ceph-osd ceph-common radosgw openssl.
set -euo pipefail
home=${STOWAGE_TEST_SERVERS:-${TMPDIR:-/tmp}/stowage-test-servers}/rgw
base=${STOWAGE_TEST_PORT:-24100}
host=127.0.0.1 mon=$base osd=$((base + 10)) s3=$((base + 1)) s3tls=$((base + 2))
conf=$home/ceph.conf
started=false

# The moment a process began: an id alone may have been given to somebody else.
began() { local line; read -r line 2>/dev/null <"/proc/$1/stat" || return 1; line=${line##*) }; set -- $line; [ "$1" != Z ] && echo "${20}"; }
runs() { local pid moment; read -r pid moment 2>/dev/null <"$home/$1.pid" && [ "$(began "$pid")" = "$moment" ]; }
answers() { (exec 3<>"/dev/tcp/$host/$1") 2>/dev/null; }

# begin NAME PORT COMMAND…: in the background, known by its id, until the port answers.
begin() {
  local name=$1 port=$2 tries=0; shift 2
  runs "$name" && return
  if answers "$port"; then echo "port $port is taken" >&2; exit 1; fi
  setsid "$@" </dev/null >"$home/$name.log" 2>&1 9>&- &
  echo "$! $(began $!)" >"$home/$name.pid"
  started=true
  until answers "$port"; do
    tries=$((tries + 1))
    if ! runs "$name" || [ $tries -gt 900 ]; then echo "$name did not start:" >&2; tail -n 20 "$home/$name.log" >&2; exit 1; fi
    sleep 0.05
  done
}

end() {
  local pid
  runs "$1" || return 0
  read -r pid _ <"$home/$1.pid"
  kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
  rm -f "$home/$1.pid"
}

configure() {
  cat >"$conf" <<CONF
[global]
fsid = 5b0c7a3e-1f0d-4f6e-9d53-0d8f1c2a7e11
mon_host = v2:$host:$mon
public_addr = $host
cluster_addr = $host
ms_bind_msgr1 = false
ms_bind_port_min = $osd
ms_bind_port_max = $((osd + 20))
run_dir = $home/run
admin_socket = $home/run/\$name.\$pid.asok
crash_dir = $home/run
keyring = $home/keyring
log_file =
log_to_stderr = true
debug_default = 0
mon_data = $home/mon
mon_cluster_log_file =
mon_data_avail_warn = 1
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
osd_data = $home/osd
osd_objectstore = memstore
memstore_device_bytes = 4G
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_class_load_list = *
rgw_frontends = beast endpoint=$host:$s3 ssl_endpoint=$host:$s3tls ssl_certificate=$home/cert.pem ssl_private_key=$home/key.pem tcp_nodelay=1
rgw_dns_name = s3.localhost
rgw_data = $home/run
rgw_run_sync_thread = false
rgw_dynamic_resharding = false
CONF
}

up() {
  mkdir -p "$home/run" "$home/mon" "$home/osd"
  [ -s "$home/cert.pem" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext 'subjectAltName=DNS:localhost,DNS:s3.localhost,DNS:*.s3.localhost,IP:127.0.0.1' \
    -keyout "$home/key.pem" -out "$home/cert.pem" 2>/dev/null
  configure
  if ! [ -d "$home/mon/store.db" ]; then
    monmaptool --create --clobber --fsid 5b0c7a3e-1f0d-4f6e-9d53-0d8f1c2a7e11 --addv a "[v2:$host:$mon]" "$home/monmap" >/dev/null
    for who in mon. client.admin client.rgw osd.0; do
      local create=; [ -e "$home/keyring" ] || create=--create-keyring
      ceph-authtool $create "$home/keyring" --gen-key -n "$who" --cap mon 'allow *' --cap osd 'allow *' >/dev/null
    done
    ceph-mon -c "$conf" --mkfs -i a --monmap "$home/monmap" --keyring "$home/keyring" 2>"$home/mkfs.log"
  fi
  begin mon "$mon" ceph-mon -c "$conf" -f -i a
  if ! [ -e "$home/osd/whoami" ]; then
    ceph -c "$conf" osd new 5b0c7a3e-1f0d-4f6e-9d53-0d8f1c2a7e12 0 >/dev/null
    ceph-osd -c "$conf" --mkfs -i 0 --osd-uuid 5b0c7a3e-1f0d-4f6e-9d53-0d8f1c2a7e12 2>>"$home/mkfs.log"
  fi
  begin osd "$osd" ceph-osd -c "$conf" -f -i 0
  begin gateway "$s3" radosgw -c "$conf" -f -n client.rgw
  if ! [ -e "$home/users" ]; then
    radosgw-admin -c "$conf" user create --uid=owner --display-name=owner --access-key=testkey --secret-key=testsecret >/dev/null 2>>"$home/mkfs.log"
    radosgw-admin -c "$conf" user create --uid=other --display-name=other --access-key=otherkey --secret-key=othersecret >/dev/null 2>>"$home/mkfs.log"
    touch "$home/users"
  fi
  echo "{\"host\":\"$host\",\"port\":$s3,\"tlsPort\":$s3tls,\"ca\":\"$home/cert.pem\",\"started\":$started}"
}

mkdir -p "$home"
exec 9>"$home.lock"
flock 9
case ${1:-up} in
  up) up ;;
  down) for name in gateway osd mon; do end "$name"; done; rm -rf "$home" ;;
  *) echo "rgw.sh knows up and down" >&2; exit 2 ;;
esac
