#!/usr/bin/env bash
# A real FTP server for tests: ProFTPD, in the clear or with explicit TLS, with implicit TLS, and with TLS required. See lib.sh.
# Needs the Debian packages proftpd-core proftpd-mod-crypto openssl.
set -euo pipefail
kind=ftp offset=100
. "$(dirname "$0")/lib.sh"
ftp=$base implicit=$((base + 1)) required=$((base + 2)) expired=$((base + 3)) hasty=$((base + 4)) few=$((base + 5))
PATH=$PATH:/usr/sbin

# virtual PORT LINE…: a further server of the same process.
virtual() { printf '%s\n' "<VirtualHost $host>" "Port $1" "${@:2}" '</VirtualHost>'; }

tls() { printf '%s\n' 'TLSEngine on' "TLSECCertificateFile $1" "TLSECCertificateKeyFile $2" 'TLSProtocol TLSv1.2 TLSv1.3'; }

up() {
  certificate
  mkdir -p "$home/home"
  [ -s "$home/expired.pem" ] || {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
      -keyout "$home/expired.key" -out "$home/expired.csr"
    openssl x509 -req -in "$home/expired.csr" -signkey "$home/expired.key" -days 0 -copy_extensions copy -out "$home/expired.pem"
  } 2>/dev/null
  echo "ftp:$(openssl passwd -6 'se"cret'):$(id -u):$(id -g)::$home/home:/bin/false" >"$home/passwd"
  echo "ftp:x:$(id -g):" >"$home/group"
  chmod 600 "$home/passwd" "$home/group"
  cat >"$home/proftpd.conf" <<CONF
ModulePath /usr/lib/proftpd
LoadModule mod_tls.c
ServerType standalone
ServerName test
DefaultAddress $host
SocketBindTight on
UseIPv6 off
UseReverseDNS off
WtmpLog off
TransferLog none
SystemLog $home/proftpd-system.log
PidFile $home/proftpd.pid
ScoreboardFile $home/scoreboard
DelayEngine off
ControlsEngine off
CapabilitiesEngine off
User $(id -un)
Group $(id -gn)
MaxInstances 200
<Global>
  AuthUserFile $home/passwd
  AuthGroupFile $home/group
  AuthOrder mod_auth_file.c
  RequireValidShell off
  RootLogin on
  $([ "$(id -u)" != 0 ] || echo 'DefaultRoot ~')
  AllowOverwrite on
  AllowStoreRestart on
  AllowRetrieveRestart on
  PassivePorts $((base + 1000)) $((base + 1199))
  TimesGMT on
</Global>
Port $ftp
$(tls "$home/cert.pem" "$home/key.pem")
TLSRequired off
$(virtual "$implicit" "$(tls "$home/cert.pem" "$home/key.pem")" 'TLSOptions UseImplicitSSL' 'TLSRequired on')
$(virtual "$required" "$(tls "$home/cert.pem" "$home/key.pem")" 'TLSRequired on')
$(virtual "$expired" "$(tls "$home/expired.pem" "$home/expired.key")" 'TLSRequired on')
$(virtual "$hasty" 'TimeoutIdle 1')
$(virtual "$few" 'MaxClients 2 "Too many connections"')
CONF
  begin proftpd "$ftp" "$(command -v proftpd)" -n -q -c "$home/proftpd.conf"
  echo "{\"host\":\"$host\",\"port\":$ftp,\"implicit\":$implicit,\"required\":$required,\"expired\":$expired,\"hasty\":$hasty,\"few\":$few,\"ca\":\"$home/cert.pem\",\"home\":\"$home/home\"}"
}

main "$@"
