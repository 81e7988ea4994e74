#!/usr/bin/env bash
# Opens exported folders with the programs that docs/export.md promises, and prints what they give as a table.
#
#   tests/clients/run.sh [FOLDER [CLIENT...]]
#
# FOLDER gets an environment for each client, the exported folders and the results; .venv-clients/exports unless named.
# CLIENT is one of those in exports/plan.py, all of them unless named. The status is 1 where one of them did not run, did
# not open a file that it should, or gave other features than torch. Run `make setup clients` first.
# PYTHON names an interpreter that has this project (.venv/bin/python), NTT_CLIENTS the folder of `make clients`.
set -euo pipefail
folder=${1:+$(realpath --canonicalize-missing "$1")}
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
clients=${NTT_CLIENTS:-.venv-clients}
folder=${folder:-$clients/exports}
here=tests/clients/exports
[ $# -gt 0 ] && shift
if ! command -v "$python" > /dev/null; then
  echo "error: there is no $python: run \`make setup\` first, or set PYTHON" >&2
  exit 2
fi
known=$("$python" -c 'from tests.clients.exports.plan import CLIENTS; print(*CLIENTS)')
[ $# -gt 0 ] || set -- $known
for client; do
  if [[ " $known " != *" $client "* ]]; then
    echo "error: $client is not a client: expected one of $known" >&2
    exit 2
  fi
done

# Files from this machine only.
export HF_HUB_OFFLINE=1 ORT_DISABLE_TELEMETRY=1
unset PYTHONPATH

# The environment of a client for Python, made again where its requirements have changed.
environment() {
  local requirements=$here/requirements/$1.txt place=$folder/environments/$1
  cmp --silent "$requirements" "$place/requirements.txt" || {
    # One after the other: `set -e` does not count where a status is asked for.
    rm -rf "$place" && "$python" -m venv "$place" \
      && "$place/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" \
      && cp "$requirements" "$place/requirements.txt"
  }
}

open_with() {
  local job=$folder/jobs/$1.json result=$folder/results/$1.json
  case $1 in
    *-node) node "$here/open_in_node.mjs" "$clients/node_modules" "$folder/models" "$job" "$result" ;;
    *-chromium)
      "$python" -m tests.clients.exports.open_in_chromium "$1" "$clients/node_modules" "$folder/models" "$job" "$result"
      ;;
    *)
      environment "$1" \
        && "$folder/environments/$1/bin/python" -s "$here/open_exports.py" "$1" "$folder/models" "$job" "$result"
      ;;
  esac
}

echo "exporting" >&2
"$python" -m tests.clients.exports.write_exports "$folder"
for client; do
  echo "$client" >&2
  # What it says last is the table's reason, where it gives no result.
  log=$folder/results/$client.log
  open_with "$client" > "$log" 2>&1 || echo "status $?" >> "$log"
done
"$python" -m tests.clients.exports.table "$folder" "$@"
