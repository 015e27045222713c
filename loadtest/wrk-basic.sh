#!/usr/bin/env bash
# Loads a gateway with wrk, prints percentiles and the error rate, and exits 1 past a threshold.
# Parameters come from the environment; loadtest/README.md explains them.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
url="${GATEWAY_URL:-http://127.0.0.1:8080/}"
duration="${DURATION:-30s}"
threads="${THREADS:-2}"
connections="${CONNECTIONS:-64}"
timeout="${TIMEOUT:-5s}"
export MAX_ERROR_RATE="${MAX_ERROR_RATE:-0.001}"
export MAX_P99_MS="${MAX_P99_MS:-50}"

"$here/../scripts/install-deps.sh" load

number='^[0-9]+([.][0-9]+)?$'
for name in MAX_ERROR_RATE MAX_P99_MS; do
  if ! [[ "${!name}" =~ $number ]]; then
    echo "wrk-basic: $name is '${!name}', expected a number" >&2
    exit 2
  fi
done

# wrk itself exits 0 whatever was measured, so its report says whether the thresholds held.
verdict="$(mktemp)"
trap 'rm -f "$verdict"' EXIT
export VERDICT_FILE="$verdict"
wrk -t "$threads" -c "$connections" -d "$duration" --timeout "$timeout" \
  -s "$here/report.lua" "$url"
grep -qx pass "$verdict"
