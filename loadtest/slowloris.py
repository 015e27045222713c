#!/usr/bin/env python3
"""Slow clients against the gateway: a thousand at a time that send their header, send their body, or
read their response as slowly as they can, while others make ordinary requests.

Prints a table, and fails when the others' p99 is more than twice what it is undisturbed, or when a
slow connection outlives its deadline. Bounded: about a minute. Parameters from the environment:
GATEWAY_BIN, CONNECTIONS (1000), RATE (requests a second of the others, 400).
"""

import asyncio
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GATEWAY = os.environ.get("GATEWAY_BIN", os.path.join(ROOT, "target/release/gateway"))
CONNECTIONS = int(os.environ.get("CONNECTIONS", "1000"))
RATE = int(os.environ.get("RATE", "400"))

# What the gateway is told to wait for, in seconds, and when a slow connection must be gone: header
# and body trickle, so the whole header's time and the body's grace of 5 s hold; a reader is gone when
# nothing more fits between it and the gateway and the time for a write is over.
HEADER, BODY, WRITE = 5, 5, 5
DEADLINE = {"header": HEADER, "body": 5, "read": 3 * WRITE}
# For the refusal to be written, for our own scheduling, and for opening so many connections.
MERCY = 4
# Over how many seconds the slow connections are opened: their number is what this is about, not how
# fast this machine can open them while it measures.
RAMP = 2
PHASE = 12
# The others' p99 is so small that noise of the machine must not decide.
NOISE_MS = 3.0

GATEWAY_CONFIG = """\
server: {{ threads: 2 }}
listeners: [{{ name: main, address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
access_log: {{ enabled: false }}
limits:
  request_header_timeout: {header}s
  request_body_timeout: {body}s
  response_write_timeout: {write}s
upstreams:
  all: {{ backends: ["127.0.0.1:{backend}"] }}
routes: [{{ name: all, upstream: all }}]
"""

NGINX_CONFIG = """\
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000; sendfile on;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{backend} backlog=4096;
    location /large {{ root {folder}; }}
    # Unlike `return`, this reads the body before it answers.
    location /upload {{ proxy_pass http://127.0.0.1:{backend}/; }}
    location / {{ return 200 "well"; }}
  }}
}}
"""

BEGINNING = {
    "header": b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    "body": b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
    "read": b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def slow_socket(number):
    """A socket from one of many addresses, that takes little at once."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.bind((f"127.0.1.{1 + number % 100}", 0))
    slow.setblocking(False)
    return slow


async def slow_client(kind, number, port, until):
    """Goes on as slowly as it can; the seconds after which it was closed, or None if it was not."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(RAMP * number / CONNECTIONS)
    with slow_socket(number) as slow:
        began = time.monotonic()
        try:
            await loop.sock_connect(slow, ("127.0.0.1", port))
            began = time.monotonic()
            await loop.sock_sendall(slow, BEGINNING[kind])
            while time.monotonic() < until:
                if kind == "read":
                    # Bytes that came before the end would hide it for hours.
                    if slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        break
                    if not await asyncio.wait_for(loop.sock_recv(slow, 1), 10):
                        break
                else:
                    await loop.sock_sendall(slow, b"x")
                    # An answer is a refusal, and the end follows.
                    try:
                        if slow.recv(4096) is not None:
                            break
                    except BlockingIOError:
                        pass
                await asyncio.sleep(1)
            else:
                return None
        except (OSError, asyncio.TimeoutError):
            pass
        return time.monotonic() - began


async def attack(kind, port):
    until = time.monotonic() + DEADLINE[kind] + MERCY + RAMP + 2
    clients = [slow_client(kind, n, port, until) for n in range(CONNECTIONS)]
    return await asyncio.gather(*clients)


async def probe_connection(port, period, until, latencies):
    """One ordinary client: a request each period, whether or not the last one was quick."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    due = time.monotonic()
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(head.decode(errors="replace"))
        await reader.readexactly(4)
        # From when it was due, so that waiting for a slow answer is not hidden.
        latencies.append((time.monotonic() - due) * 1000)
        due += period
    writer.close()


def probe(port, seconds, results):
    """Ordinary clients in a process of their own."""

    async def all_of_them():
        latencies, clients = [], 8
        until = time.monotonic() + seconds
        period = clients / RATE
        await asyncio.gather(
            *(probe_connection(port, period, until, latencies) for _ in range(clients))
        )
        return latencies

    results.put(asyncio.run(all_of_them()))


def phase(kind, port):
    """Ordinary requests, and slow clients of this kind if there are any."""
    results = multiprocessing.Queue()
    seconds = PHASE if kind is None else DEADLINE[kind] + MERCY + RAMP
    others = multiprocessing.Process(target=probe, args=(port, seconds, results))
    others.start()
    ended = asyncio.run(attack(kind, port)) if kind else []
    latencies = sorted(results.get(timeout=120))
    others.join()
    return latencies, ended


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def closed_by_reason(admin):
    page = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10).read().decode()
    wanted = "gateway_connections_closed_total"
    return [line for line in page.splitlines() if line.startswith(wanted)]


def wait_until_ready(admin):
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=1).read()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit("slowloris: the gateway did not become ready")


def measure(port, admin):
    print(f"{CONNECTIONS} slow connections at a time, {RATE} ordinary requests a second\n")
    print("| slow in  | others p50 | others p99 | closed | last after | allowed |")
    print("|----------|-----------:|-----------:|-------:|-----------:|--------:|")
    good, undisturbed = True, None
    for kind in (None, "header", "body", "read"):
        latencies, ended = phase(kind, port)
        p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        if kind is None:
            undisturbed = p99
            print(f"| nothing  | {p50:7.2f} ms | {p99:7.2f} ms |      - |          - |       - |")
            continue
        closed = [after for after in ended if after is not None]
        last, allowed = max(closed, default=0.0), DEADLINE[kind] + MERCY
        verdict = p99 <= max(2 * undisturbed, NOISE_MS)
        verdict = verdict and len(closed) == CONNECTIONS and last <= allowed
        good = good and verdict
        print(
            f"| {kind:8} | {p50:7.2f} ms | {p99:7.2f} ms | {len(closed):6} "
            f"| {last:8.1f} s | {allowed:5} s |" + ("" if verdict else " <-- too much")
        )
    print("\n" + "\n".join(closed_by_reason(admin)))
    return good


def main():
    if not os.access(GATEWAY, os.X_OK):
        sys.exit(f"slowloris: {GATEWAY} is not there, run: make build")
    subprocess.run([os.path.join(ROOT, "scripts/install-deps.sh"), "bench"], check=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port, admin, backend = free_port(), free_port(), free_port()
    running = []
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "large"), "wb") as large:
            large.truncate(64 << 20)
        nginx, config = os.path.join(folder, "nginx.conf"), os.path.join(folder, "gateway.yaml")
        with open(nginx, "w", encoding="utf-8") as out:
            out.write(NGINX_CONFIG.format(folder=folder, backend=backend))
        with open(config, "w", encoding="utf-8") as out:
            ports = {"port": port, "admin": admin, "backend": backend}
            out.write(GATEWAY_CONFIG.format(header=HEADER, body=BODY, write=WRITE, **ports))
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        environment = dict(os.environ, PATH=path)
        try:
            running.append(subprocess.Popen(["nginx", "-c", nginx, "-e", folder + "/error.log"], env=environment))
            running.append(subprocess.Popen([GATEWAY, "-c", config], stderr=subprocess.DEVNULL))
            wait_until_ready(admin)
            good = measure(port, admin)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=30)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
