#!/usr/bin/env bash
# An S3-shaped sink for measuring clients: nginx takes PUT (also of parts), GET, HEAD and DELETE as fast as memory lets it.
# It checks no signature, gives an ETag that is no MD5, lists nothing and keeps only the last write of a part. For speed, never for correctness.
#   sink.sh up [PORT]    starts it on 127.0.0.1 (default 24200) and prints its address
#   sink.sh down         ends the process it started
# Needs the Debian package nginx-light.
set -euo pipefail
home=${STOWAGE_BENCH_SERVERS:-/dev/shm/stowage-bench}/sink
port=${2:-24200}
case ${1:-up} in
  up)
    mkdir -p "$home"/{root,tmp}
    cat >"$home/nginx.conf" <<CONF
pid $home/pid;
error_log $home/error.log warn;
worker_processes 2;
$([ "$(id -u)" != 0 ] || echo 'user root;')
events { worker_connections 2048; }
http {
  default_type application/octet-stream;
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 100000000; client_max_body_size 0;
  client_body_buffer_size 64k;
  client_body_temp_path $home/tmp; proxy_temp_path $home/tmp; fastcgi_temp_path $home/tmp; uwsgi_temp_path $home/tmp; scgi_temp_path $home/tmp;
  map \$request_method:\$args \$canned {
    default "";
    "~^POST:uploads" "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    "~^POST:.*uploadId=" "<CompleteMultipartUploadResult><ETag>&quot;00000000000000000000000000000000-1&quot;</ETag></CompleteMultipartUploadResult>";
    "~^GET:.*list-type=2" "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";
  }
  map \$arg_partNumber \$part { default .part\$arg_partNumber; "" ""; }
  server {
    listen 127.0.0.1:$port; root $home/root; etag off;
    add_header ETag '"00000000000000000000000000000000-1"' always;
    location / {
      if (\$canned) { add_header Content-Type application/xml; return 200 \$canned; }
      if (\$part) { rewrite ^(.*)\$ \$1\$part break; }
      dav_methods PUT DELETE; create_full_put_path on;
    }
    location ~ ^/[^/]+/?\$ { if (\$canned) { return 200 \$canned; } return 200; }
  }
}
CONF
    nginx -c "$home/nginx.conf"
    echo "http://127.0.0.1:$port"
    ;;
  down)
    [ -s "$home/pid" ] && kill "$(cat "$home/pid")" && rm -f "$home/pid"
    rm -rf "$home"
    ;;
  *) echo "sink.sh knows up and down" >&2; exit 2 ;;
esac
