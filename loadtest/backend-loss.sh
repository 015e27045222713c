#!/usr/bin/env bash
# Loads a gateway with two backends, kills one half-way, and fails when clients saw more errors than
# there were requests in flight on the one killed. Parameters come from the environment.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
root="$(dirname "$here")"
gateway="${GATEWAY_BIN:-$root/target/release/gateway}"
seconds="${SECONDS_IN_ALL:-60}"
connections="${CONNECTIONS:-64}"

"$root/scripts/install-deps.sh" load bench
PATH="$PATH:/usr/sbin:/sbin"
if [ ! -x "$gateway" ]; then
  echo "backend-loss: $gateway is not there, run: make build" >&2
  exit 2
fi

work="$(mktemp -d)"
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
  rm -rf "$work"
}
trap finish EXIT

# A port that was free a moment ago.
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# An nginx that answers 1 KiB; its process id is the last of pids.
start_backend() {
  local port="$1" folder="$work/backend-$1"
  mkdir -p "$folder"
  cat >"$folder/nginx.conf" <<EOF
daemon off; master_process off; pid $folder/pid; error_log $folder/error.log;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000;
  client_body_temp_path $folder/b; proxy_temp_path $folder/p; fastcgi_temp_path $folder/f;
  uwsgi_temp_path $folder/u; scgi_temp_path $folder/s;
  server { listen 127.0.0.1:$port; location / { return 200 "$(printf 'x%.0s' $(seq 1024))"; } }
}
EOF
  nginx -p "$folder" -c "$folder/nginx.conf" -e "$folder/error.log" &
  pids+=("$!")
}

first="$(free_port)"
second="$(free_port)"
port="$(free_port)"
admin="$(free_port)"
start_backend "$first"
doomed="${pids[-1]}"
start_backend "$second"

cat >"$work/gateway.yaml" <<EOF
listeners: [{ address: "127.0.0.1:$port" }]
admin: { address: "127.0.0.1:$admin" }
access_log: { output: "$work/access.log" }
upstreams:
  pair: { backends: ["127.0.0.1:$first", "127.0.0.1:$second"] }
routes: [{ name: all, upstream: pair }]
EOF
"$gateway" -c "$work/gateway.yaml" 2>"$work/gateway.log" &
pids+=("$!")
for _ in $(seq 100); do
  curl -sf -o /dev/null "http://127.0.0.1:$port/ready" && break
  sleep 0.1
done

wrk -t 1 -c "$connections" -d "${seconds}s" --timeout 5s --latency "http://127.0.0.1:$port/" \
  >"$work/wrk.txt" &
load="$!"
sleep "$((seconds / 2))"
# At once and without a farewell, as a machine that dies.
kill -KILL "$doomed"
wait "$load"

cat "$work/wrk.txt"
curl -s "http://127.0.0.1:$admin/metrics" |
  grep -E '^gateway_(http_requests_total|backend_(retries|failures|ejections)_total|backend_up)' || true
# wrk prints nothing of errors when there are none.
failed="$(awk '/Non-2xx/ { n += $NF } /Socket errors/ { gsub(",", ""); n += $4 + $6 + $8 + $10 } END { print n + 0 }' "$work/wrk.txt")"
echo "requests that failed: $failed (of at most $connections in flight)"
[ "$failed" -le "$connections" ]
