#!/usr/bin/env bash
# A real WebDAV server for tests: Apache with mod_dav, Basic and Digest authentication, with and without TLS. See lib.sh.
# Needs the Debian packages apache2 openssl.
set -euo pipefail
kind=dav offset=90
. "$(dirname "$0")/lib.sh"
http=$base https=$((base + 1)) user=dav password='se"cret'
PATH=$PATH:/usr/sbin

up() {
  certificate
  mkdir -p "$home"/{files/basic,files/digest,locks}
  echo "$user:$(openssl passwd -apr1 "$password")" >"$home/basic"
  echo "$user:dav:$(printf '%s' "$user:dav:$password" | md5sum | cut -d' ' -f1)" >"$home/digest"
  # mod_dir sends a redirection for directories without their slash, whatever the method, as installations do.
  cat >"$home/httpd.conf" <<CONF
ServerRoot /usr/lib/apache2
$(for m in mpm_event authn_core authn_file authz_core authz_user auth_basic auth_digest dav dav_fs socache_shmcb ssl mime dir
  do echo "LoadModule ${m}_module modules/mod_$m.so"; done)
ServerName localhost
PidFile $home/httpd.pid
ErrorLog $home/error.log
LogLevel error
DefaultRuntimeDir $home
TypesConfig /etc/mime.types
$([ "$(id -u)" != 0 ] || printf 'User www-data\nGroup www-data\n')
Listen $host:$http
Listen $host:$https
KeepAlive on
MaxKeepAliveRequests 0
DavLockDB $home/locks/db
DocumentRoot $home/files
<Directory $home/files>
  Dav on
  Require valid-user
</Directory>
<Location /basic>
  AuthType Basic
  AuthName dav
  AuthUserFile $home/basic
</Location>
<Location /digest>
  AuthType Digest
  AuthName dav
  AuthUserFile $home/digest
  AuthDigestNonceLifetime 2
</Location>
<VirtualHost $host:$https>
  SSLEngine on
  SSLCertificateFile $home/cert.pem
  SSLCertificateKeyFile $home/key.pem
</VirtualHost>
CONF
  [ "$(id -u)" != 0 ] || chown -R www-data "$home/files" "$home/locks"
  begin apache "$http" apache2 -D FOREGROUND -f "$home/httpd.conf"
  echo "{\"host\":\"$host\",\"port\":$http,\"tlsPort\":$https,\"ca\":\"$home/cert.pem\",\"files\":\"$home/files\",\"user\":\"$user\",\"password\":\"${password/\"/\\\"}\"}"
}

main "$@"
