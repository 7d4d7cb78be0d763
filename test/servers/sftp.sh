#!/usr/bin/env bash
# Real SFTP servers for tests: OpenSSH with a key, and ProFTPD's mod_sftp with a password. See lib.sh.
# Needs the Debian packages openssh-server openssh-client proftpd-core proftpd-mod-crypto openssl.
set -euo pipefail
kind=sftp offset=60
. "$(dirname "$0")/lib.sh"
ssh=$base password=$((base + 1))
PATH=$PATH:/usr/sbin
user=$(id -un)

up() {
  mkdir -p "$home"/{files,home} && chmod 700 "$home"
  [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
  for key in host client; do [ -s "$home/$key" ] || ssh-keygen -q -t ed25519 -N '' -f "$home/$key"; done
  [ -s "$home/locked" ] || ssh-keygen -q -t ed25519 -N passphrase -f "$home/locked"
  # mod_sftp reads the old form of keys only.
  [ -s "$home/host_rsa" ] || ssh-keygen -q -t rsa -b 3072 -m PEM -N '' -f "$home/host_rsa"
  cat "$home"/{client,locked}.pub >"$home/authorized"
  {
    echo "[$host]:$ssh $(cut -d' ' -f1,2 "$home/host.pub")"
    echo "[$host]:$password $(cut -d' ' -f1,2 "$home/host_rsa.pub")"
  } >"$home/known_hosts"
  cat >"$home/sshd_config" <<CONF
ListenAddress $host
Port $ssh
HostKey $home/host
HostKey $home/host_rsa
PidFile $home/sshd.pid
AuthorizedKeysFile $home/authorized
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
MaxSessions 100
UseDNS no
PrintMotd no
AllowTcpForwarding no
Subsystem sftp internal-sftp
ForceCommand internal-sftp -d $home/home
CONF
  begin sshd "$ssh" "$(command -v sshd)" -D -e -f "$home/sshd_config"
  echo "sftp:$(openssl passwd -6 'se"cret'):$(id -u):$(id -g)::$home/home:/bin/false" >"$home/passwd"
  echo "sftp:x:$(id -g):" >"$home/group"
  chmod 600 "$home/passwd" "$home/group"
  cat >"$home/proftpd.conf" <<CONF
ModulePath /usr/lib/proftpd
LoadModule mod_sftp.c
LoadModule mod_digest.c
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
User $user
Group $(id -gn)
MaxInstances 100
AuthUserFile $home/passwd
AuthGroupFile $home/group
AuthOrder mod_auth_file.c
RequireValidShell off
RootLogin on
AllowOverwrite on
AllowStoreRestart on
Port $password
SFTPEngine on
SFTPHostKey $home/host_rsa
SFTPAuthMethods password
MaxLoginAttempts 3
CONF
  begin proftpd "$password" "$(command -v proftpd)" -n -q -c "$home/proftpd.conf"
  echo "{\"host\":\"$host\",\"port\":$ssh,\"passwordPort\":$password,\"user\":\"$user\",\"home\":\"$home\"}"
}

main "$@"
