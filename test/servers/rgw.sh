#!/usr/bin/env bash
# A real S3 server for tests: Ceph's RADOS gateway with one monitor and one in-memory object store. See lib.sh.
# Needs the Debian packages ceph-mon ceph-osd ceph-common radosgw openssl.
set -euo pipefail
kind=rgw offset=0
. "$(dirname "$0")/lib.sh"
mon=$base osd=$((base + 10)) s3=$((base + 1)) s3tls=$((base + 2))
conf=$home/ceph.conf

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
  certificate
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
  echo "{\"host\":\"$host\",\"port\":$s3,\"tlsPort\":$s3tls,\"ca\":\"$home/cert.pem\"}"
}

main "$@"
