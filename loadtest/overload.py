#!/usr/bin/env python3
"""Three times the load that a backend can answer, and what becomes of it.

    loadtest/overload.py [GATEWAY]

A backend with 4 workers of 20 ms each is asked 0.3 times, 3 times, and again 0.3 times what it can do, at a
constant rate that does not wait for answers. A tenth of the requests is of a route with `priority: critical`,
the others are `low`. For each phase it prints what was answered and how fast, by class; beside HAProxy with a
queue, a limit that somebody has set by hand, and its priority classes, where that is installed.

GATEWAY is the binary, target/release/gateway when left out. PHASE_SECONDS (20) is the length of the overload.
Ends with 1 when the gateway misses a bar: in the overload 90 % of what the backend can do is answered, 99 % of
the critical are, and of what is answered, half takes less than 200 ms and 99 % less than 1.5 s; in both other phases nothing is
refused. The machine should have nothing else to do. Needs Python 3.9 and nothing beside it.
"""

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

WORKERS, SERVICE = 4, 0.02
SECONDS = float(os.environ.get("PHASE_SECONDS", "20"))
LIGHT_SECONDS = 5.0
# What is measured of an overload begins when it has lasted this long.
SETTLING = 5.0
PATIENCE = 5.0
ROOT = Path(__file__).resolve().parent.parent


class Backend:
    """So many workers, and a queue without a bound in front of them, as real ones have."""

    def __init__(self):
        self.free = asyncio.Semaphore(WORKERS)
        self.answered = 0
        self.port = 0

    async def start(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                async with self.free:
                    await asyncio.sleep(SERVICE)
                self.answered += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


class Client:
    """Connections that are used again, as many as it takes."""

    def __init__(self, port):
        self.port, self.idle = port, []

    async def ask(self, path):
        """The status, or 0 when there was none in time."""
        try:
            return await asyncio.wait_for(self.exchange(path), PATIENCE)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError, ValueError, IndexError):
            return 0

    async def exchange(self, path):
        if self.idle:
            reader, writer = self.idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        kept = False
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(head.split(" ", 2)[1])
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            await reader.readexactly(int(fields.get("content-length", "0")))
            kept = fields.get("connection") != "close" and "content-length" in fields
            return status
        finally:
            if kept:
                self.idle.append((reader, writer))
            else:
                writer.close()


async def capacity(backend):
    """What the backend answers in a second when it is always busy."""
    client = Client(backend.port)
    end = time.monotonic() + 3

    async def loop():
        while time.monotonic() < end:
            await client.ask("/")

    before = backend.answered
    await asyncio.gather(*(loop() for _ in range(4 * WORKERS)))
    return (backend.answered - before) / 3


async def phase(client, rate, seconds, settling):
    """Requests at this rate, whatever becomes of them: class, status, latency, of those after settling."""
    results, tasks = [], set()
    begun = time.monotonic()

    async def one(path, counts):
        at = time.monotonic()
        status = await client.ask(path)
        if counts:
            results.append((path, status, time.monotonic() - at))

    due = begun
    while (now := time.monotonic()) < begun + seconds:
        while due <= now:
            path = "/critical" if random.random() < 0.1 else "/low"
            task = asyncio.create_task(one(path, now >= begun + settling))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += random.expovariate(rate)
        await asyncio.sleep(max(0.0, min(0.01, due - time.monotonic())))
    await asyncio.gather(*tasks)
    return results


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


class Summary:
    def __init__(self, results, seconds):
        good = [latency for _, status, latency in results if status == 200]
        self.goodput = len(good) / seconds
        self.p50, self.p99 = percentile(good, 0.5), percentile(good, 0.99)
        self.refusal = percentile([latency for _, status, latency in results if status == 503], 0.99)
        self.success = {}
        for path in ("/critical", "/low"):
            statuses = [status for asked, status, _ in results if asked == path]
            self.success[path] = statuses.count(200) / max(1, len(statuses))
        self.broken = sum(status not in (200, 503) for _, status, _ in results)

    def show(self, name, load, of):
        print(
            f"{name:8} {load:>9} {self.goodput:8.1f} {100 * self.goodput / of:7.1f} % "
            f"{1e3 * self.p50:7.0f} {1e3 * self.p99:8.0f} {1e3 * self.refusal:9.0f} "
            f"{100 * self.success['/critical']:9.2f} % {100 * self.success['/low']:7.2f} % {self.broken:7}",
            flush=True,
        )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gateway(binary, folder, backend):
    port, admin = free_port(), free_port()
    file = folder / "gateway.yaml"
    file.write_text(f"""\
server: {{ threads: 1, upgrade_socket: upgrade.sock }}
listeners: [{{ address: 127.0.0.1:{port} }}]
admin: {{ address: 127.0.0.1:{admin} }}
access_log: {{ enabled: false }}
limits: {{ max_connections_per_client: 10000 }}
upstreams:
  shop:
    backends: [127.0.0.1:{backend}]
    concurrency: {{ adaptive: {{}} }}
routes:
  - {{ name: critical, match: {{ path: /critical }}, priority: critical, upstream: shop }}
  - {{ name: rest, priority: low, upstream: shop }}
""")
    return port, [str(binary), "-c", str(file)], admin


def haproxy(folder, backend):
    port = free_port()
    file = folder / "haproxy.cfg"
    # Twice the workers, as one would set it who knows them.
    file.write_text(f"""\
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout queue 1s
listen shop
  bind 127.0.0.1:{port}
  http-request set-priority-class int(-10) if {{ path /critical }}
  server one 127.0.0.1:{backend} maxconn {2 * WORKERS} maxqueue 100
""")
    return port, ["haproxy", "-f", str(file)], None


def limit(admin):
    """What an adaptive limit is now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as page:
        for line in page.read().decode().splitlines():
            if line.startswith("gateway_concurrency_limit{"):
                return line.rsplit(" ", 1)[1]
    return "?"


async def up(port):
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.02)
    raise SystemExit("it does not listen")


async def measure(name, port, command, admin, of):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    summaries = []
    try:
        await up(port)
        client = Client(port)
        for load, seconds, settling in (
            (0.3, LIGHT_SECONDS, 0.0),
            (3.0, SETTLING + SECONDS, SETTLING),
            (0.3, LIGHT_SECONDS, 1.0),
        ):
            results = await phase(client, load * of, seconds, settling)
            summaries.append(Summary(results, seconds - settling))
            summaries[-1].show(name, f"{load:.1f} x", of)
        if admin:
            print(f"         the limit is now {limit(admin)}, for {WORKERS} workers")
    finally:
        process.terminate()
        process.wait()
    return summaries


async def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/gateway")
    if not binary.exists():
        raise SystemExit(f"{binary} is not there: cargo build --release")
    backend = Backend()
    await backend.start()
    of = await capacity(backend)
    print(f"The backend answers {of:.1f} requests a second: {WORKERS} workers of {1e3 * SERVICE:.0f} ms.")
    print(
        f"{'':8} {'load':>9} {'goodput':>8} {'':9} {'p50 ms':>7} {'p99 ms':>8} {'503 p99':>9} "
        f"{'critical':>11} {'low':>9} {'broken':>7}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        summaries = await measure("gateway", *gateway(binary, folder, backend.port), of)
        if shutil.which("haproxy"):
            await measure("haproxy", *haproxy(folder, backend.port), of)
    before, overload, after = summaries
    missed = [
        what
        for what, is_good in (
            ("goodput", overload.goodput >= 0.9 * of),
            ("critical", overload.success["/critical"] >= 0.99),
            ("latency", overload.p50 <= 0.2 and overload.p99 <= 1.5),
            ("broken", overload.broken == 0),
            ("needless refusals", all(min(one.success.values()) == 1 for one in (before, after))),
        )
        if not is_good
    ]
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    asyncio.run(main())
