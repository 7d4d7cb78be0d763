#!/usr/bin/env bash
# Azurite for tests: Microsoft's emulator of Azure Blob Storage, from npm. See lib.sh.
set -euo pipefail
kind=azurite offset=140
. "$(dirname "$0")/lib.sh"
main_js=$(cd "$(dirname "$0")/../.." && pwd)/node_modules/azurite/dist/src/blob/main.js
# Public, and the same for every Azurite.
key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==

up() {
  mkdir -p "$home/files"
  begin azurite "$base" node "$main_js" --blobHost "$host" --blobPort "$base" --location "$home/files" --silent \
    --disableTelemetry --skipApiVersionCheck
  echo "{\"host\":\"$host\",\"port\":$base,\"account\":\"devstoreaccount1\",\"key\":\"$key\"}"
}

main "$@"
