# Sourced by the script of each test server: KIND.sh up PID starts it and prints how to reach it as one line of JSON;
# KIND.sh release PID says that the test process PID needs it no more, and the last one ends it and removes what it kept.
#
# A script sets `kind`, `offset` (its ports are $base and up) and the function `up`, which calls `begin` and prints the
# JSON, then sources nothing more and calls `main "$@"`. Everything is on 127.0.0.1 and below $home.
host=127.0.0.1
root=${STOWAGE_TEST_SERVERS:-${TMPDIR:-/tmp}/stowage-test-servers}
home=$root/$kind
base=$((${STOWAGE_TEST_PORT:-24100} + offset))

# The moment a process began: an id alone may have been given to somebody else.
began() { local line; read -r line 2>/dev/null <"/proc/$1/stat" || return 1; line=${line##*) }; set -- $line; [ "$1" != Z ] && echo "${20}"; }
runs() { local pid moment; read -r pid moment 2>/dev/null <"$home/pid/$1" && [ "$(began "$pid")" = "$moment" ]; }
answers() { (exec 3<>"/dev/tcp/$host/$1") 2>/dev/null; }

# begin NAME PORT COMMAND…: in the background, known by its id, until the port answers. Nothing if it runs already.
begin() {
  local name=$1 port=$2 tries=0; shift 2
  runs "$name" && return
  if answers "$port"; then echo "port $port is taken" >&2; exit 1; fi
  setsid "$@" </dev/null >"$home/$name.log" 2>&1 9>&- &
  echo "$! $(began $!)" >"$home/pid/$name"
  until answers "$port"; do
    tries=$((tries + 1))
    if ! runs "$name" || [ $tries -gt 900 ]; then echo "$name did not start:" >&2; tail -n 20 "$home/$name.log" >&2; exit 1; fi
    sleep 0.05
  done
}

end() {
  local pid
  runs "$1" || return 0
  read -r pid _ <"$home/pid/$1"
  kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
  while runs "$1"; do sleep 0.02; done
}

# certificate: $home/cert.pem and key.pem for localhost and 127.0.0.1, signed by itself, made once.
certificate() {
  [ -s "$home/cert.pem" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext 'subjectAltName=DNS:localhost,DNS:s3.localhost,DNS:*.s3.localhost,IP:127.0.0.1' \
    -keyout "$home/key.pem" -out "$home/cert.pem" 2>/dev/null
}

# Who needs the server: a file for each process, with the moment it began, so that one that died needs it no more.
needed() {
  local file
  for file in "$home"/needed-by/*; do [ -e "$file" ] && [ "$(began "${file##*/}")" = "$(cat "$file")" ] && return; done
  return 1
}

main() {
  mkdir -p "$home/pid" "$home/needed-by"
  exec 9>"$root/$kind.lock"
  flock 9
  case ${1:-} in
    up) echo "$(began "$2")" >"$home/needed-by/$2"; up ;;
    release)
      rm -f "$home/needed-by/$2"
      needed || { for file in "$home"/pid/*; do end "${file##*/}"; done; rm -rf "$home"; } ;;
    *) echo "usage: $0 up|release PID" >&2; exit 2 ;;
  esac
}
