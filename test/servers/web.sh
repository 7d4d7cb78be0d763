#!/usr/bin/env bash
# A real web server for tests: nginx with files over HTTP and HTTPS, in good and in bad manners, and with WebDAV. See lib.sh.
# Needs the Debian packages nginx-light libnginx-mod-http-dav-ext openssl.
set -euo pipefail
kind=web offset=80
. "$(dirname "$0")/lib.sh"
http=$base https=$((base + 1)) mutual=$((base + 2)) expired=$((base + 3)) user=web password='se:cret ü'
PATH=$PATH:/usr/sbin

certificates() {
  certificate
  [ -s "$home/expired.pem" ] || {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
      -keyout "$home/expired.key" -out "$home/expired.csr"
    openssl x509 -req -in "$home/expired.csr" -signkey "$home/expired.key" -days 0 -copy_extensions copy -out "$home/expired.pem"
  } 2>/dev/null
  [ -s "$home/client.pem" ] || {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=client -keyout "$home/client.key" -out "$home/client.crt"
    cat "$home/client.crt" "$home/client.key" >"$home/client.pem"
  } 2>/dev/null
}

# What each folder is for: all show the same files. Adding nothing to a body makes nginx forget its length.
folders() {
  cat <<CONF
root $home;
location /files/ { }
location /private/ { alias $home/files/; auth_basic files; auth_basic_user_file $home/users; }
location /no-ranges/ { alias $home/files/; max_ranges 0; etag off; }
location /no-sizes/ { alias $home/files/; add_after_body /nothing; addition_types *; }
location = /nothing { return 200; }
location /no-head/ { alias $home/files/; if (\$request_method = HEAD) { return 405; } }
location /neither/ { alias $home/files/; add_after_body /nothing; addition_types *; if (\$request_method = HEAD) { return 501; } }
location /encoded/ { alias $home/files/; add_header Content-Encoding gzip; }
location /moved/ { rewrite ^/moved/(.*)\$ /files/\$1 redirect; }
location /moved-in-private/ { rewrite ^/moved-in-private/(.*)\$ /private/\$1 redirect; }
location /elsewhere/ { rewrite ^/elsewhere/(.*)\$ http://localhost:$http/private/\$1 redirect; }
location /upgraded/ { rewrite ^/upgraded/(.*)\$ https://127.0.0.1:$https/files/\$1 permanent; }
location /downgraded/ { rewrite ^/downgraded/(.*)\$ http://127.0.0.1:$http/files/\$1 redirect; }
location /circle/ { rewrite ^ /circle/again redirect; }
location /status/ { rewrite ^/status/(\d+)/ /status-\$1 last; }
location = /status-401 { return 401; }
location = /status-403 { return 403; }
location = /status-410 { return 410; }
location = /status-429 { add_header Retry-After 3 always; return 429; }
location = /status-500 { return 500; }
location = /status-503 { add_header Retry-After 7 always; return 503; }
location /dav/ {
  auth_basic dav; auth_basic_user_file $home/users;
  dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS;
}
location /small/ {
  alias $home/dav/; client_max_body_size 100k;
  dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS;
}
CONF
}

up() {
  certificates
  mkdir -p "$home"/{files,dav,temporary}
  echo "$user:$(openssl passwd -apr1 "$password")" >"$home/users"
  folders >"$home/folders.conf"
  cat >"$home/nginx.conf" <<CONF
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
pid $home/nginx.pid;
error_log stderr warn;
daemon off;
worker_processes 2;
$([ "$(id -u)" != 0 ] || echo 'user root;')
events { worker_connections 1024; }
http {
  types { text/plain txt; text/css css; }
  default_type application/octet-stream;
  access_log off; sendfile on; client_max_body_size 0; server_tokens off;
  client_body_temp_path $home/temporary; proxy_temp_path $home/temporary/p; fastcgi_temp_path $home/temporary/f;
  uwsgi_temp_path $home/temporary/u; scgi_temp_path $home/temporary/s;
  ssl_certificate $home/cert.pem; ssl_certificate_key $home/key.pem;
  server { listen $host:$http; include $home/folders.conf; }
  server { listen $host:$https ssl; include $home/folders.conf; }
  server { listen $host:$mutual ssl; ssl_client_certificate $home/client.crt; ssl_verify_client on; include $home/folders.conf; }
  server { listen $host:$expired ssl; ssl_certificate $home/expired.pem; ssl_certificate_key $home/expired.key; include $home/folders.conf; }
}
CONF
  begin nginx "$http" nginx -c "$home/nginx.conf" -p "$home"
  echo "{\"host\":\"$host\",\"port\":$http,\"tlsPort\":$https,\"mutualPort\":$mutual,\"expiredPort\":$expired,\"files\":\"$home/files\",\"dav\":\"$home/dav\",\
\"ca\":\"$home/cert.pem\",\"expiredCa\":\"$home/expired.pem\",\"identity\":\"$home/client.pem\",\"user\":\"$user\",\"password\":\"$password\"}"
}

main "$@"
