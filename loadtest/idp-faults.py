#!/usr/bin/env python3
"""An identity provider that rotates its keys, fails in every way, and is flooded for, under load.

Clients with tokens that are good make requests at a constant rate while the provider goes from one fault
to the next. As many others ask for a route that is open to everyone: they feel the noise of the machine
and nothing of the provider. Prints a table by phase, and fails when a good token is refused, when the p99
of those with tokens is more than twice that of the others (and above NOISE_MS), or when the gateway
fetches more often than it says. Bounded: about a minute and a half. Parameters from the environment: GATEWAY_BIN, RATE
(requests a second, 200), PHASE (seconds of a phase, 8).
"""

import asyncio
import base64
import json
import multiprocessing
import os
import random
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GATEWAY = os.environ.get("GATEWAY_BIN", os.path.join(ROOT, "target/release/gateway"))
RATE = int(os.environ.get("RATE", "200"))
PHASE = int(os.environ.get("PHASE", "8"))
CONNECTIONS = 16
TOKENS = 20
# The p99 is so small that noise of the machine must not decide.
NOISE_MS = float(os.environ.get("NOISE_MS", "5"))

REFRESH, TIMEOUT, COOLDOWN = 2, 1, 4

CONFIG = """\
server: {{ threads: 2 }}
listeners: [{{ name: main, address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
access_log: {{ enabled: false }}
auth:
  jwt:
    name: main
    jwks:
      url: http://127.0.0.1:{provider}/keys
      refresh: {refresh}s
      min_refresh: 1s
      timeout: {timeout}s
      unknown_key_cooldown: {cooldown}s
      max_stale: 1h
routes:
  - {{ name: open, match: {{ path: /open }}, auth: none, respond: {{ body: ok }} }}
  - {{ name: all, auth: main, respond: {{ body: ok }} }}
"""

PHASES = [
    ("undisturbed", "good"),
    ("rotates", "rotated"),
    ("answers 500", "500"),
    ("sends garbage", "garbage"),
    ("sends 100 MB", "large"),
    ("wrong content type", "html"),
    ("hangs", "hang"),
    ("is flooded for", "rotated"),
    ("vanishes", "gone"),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """A key for RS256, in the hands of openssl."""

    def __init__(self, folder, kid):
        self.kid, self.path = kid, os.path.join(folder, kid + ".pem")
        run("openssl", "genrsa", "-out", self.path, "2048")
        modulus = run("openssl", "rsa", "-in", self.path, "-noout", "-modulus")
        modulus = bytes.fromhex(modulus.decode().strip().split("=")[1])
        self.jwk = {"kty": "RSA", "kid": kid, "alg": "RS256", "n": encode(modulus), "e": "AQAB"}

    def token(self, subject):
        header = {"alg": "RS256", "typ": "JWT", "kid": self.kid}
        claims = {"sub": subject, "exp": int(time.time()) + 3600}
        text = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        signed = run("openssl", "dgst", "-sha256", "-sign", self.path, stdin=text.encode())
        return text + "." + encode(signed)


def run(*command, stdin=None):
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=True)
    return done.stdout


def provide(port, mode, bodies):
    """The identity provider, in a process of its own; `mode` is an index into PHASES, or -1."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            what = PHASES[mode.value][1]
            try:
                self.answer(what)
            except OSError:
                pass  # The gateway has had enough.

        def answer(self, what):
            kind, status, body = "application/json", "200 OK", bodies.get(what, b"{}")
            if what == "gone":
                return
            if what == "hang":
                time.sleep(4 * TIMEOUT)
                return
            if what == "500":
                status = "500 Internal Server Error"
            if what == "html":
                kind = "text/html"
            length = 100_000_000 if what == "large" else len(body)
            head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
            self.wfile.write(head.encode())
            if what == "large":
                for _ in range(100):
                    self.wfile.write(b" " * 1_000_000)
            else:
                self.wfile.write(body)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    Server(("127.0.0.1", port), Handler).serve_forever()


async def read_status(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    await reader.readexactly(length)
    return int(head.split(b" ")[1])


async def work(port, jobs, results):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        job = await jobs.get()
        if job is None:
            break
        due, token = job
        path, field = ("/", f"Authorization: Bearer {token}\r\n") if token else ("/open", "")
        writer.write(f"GET {path} HTTP/1.1\r\nHost: t\r\n{field}\r\n".encode())
        status = await read_status(reader)
        results.append((status, (time.monotonic() - due) * 1000))
    writer.close()


async def load(port, tokens, seconds, rate):
    """Requests at a constant rate; what is measured begins when each was due."""
    jobs, results = asyncio.Queue(), []
    workers = [asyncio.create_task(work(port, jobs, results)) for _ in range(CONNECTIONS)]
    begin = time.monotonic()
    for number in range(int(seconds * rate)):
        due = begin + number / rate
        await asyncio.sleep(max(0, due - time.monotonic()))
        jobs.put_nowait((due, tokens()))
    for _ in workers:
        jobs.put_nowait(None)
    await asyncio.wait_for(asyncio.gather(*workers), 30)
    return results


def unknown(token):
    """The token with a key that nobody has."""
    header = {"alg": "RS256", "typ": "JWT", "kid": f"random{random.getrandbits(64)}"}
    return encode(json.dumps(header).encode()) + token[token.index("."):]


def fetches(admin):
    page = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5).read().decode()
    lines = [line for line in page.splitlines() if line.startswith("gateway_jwks_fetches_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def most_fetches(what):
    """What docs/jwks.md states, at most, with the mean of the random waits after failures doubled."""
    regular = PHASE / (0.9 * REFRESH) + 2
    if what in ("good", "rotated"):
        return regular + PHASE / COOLDOWN + 1
    mean_wait = (0.25 + REFRESH) / 2
    return 2 * (PHASE / mean_wait + 2)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


async def phase(ports, tokens, flood):
    before = fetches(ports["admin"])
    loads = [load(ports["port"], lambda: random.choice(tokens), PHASE, RATE),
             load(ports["port"], lambda: None, PHASE, RATE)]
    if flood:
        loads.append(load(ports["port"], lambda: unknown(tokens[0]), PHASE, RATE))
    done = await asyncio.gather(*loads)
    count = fetches(ports["admin"]) - before
    expected = [200, 200, 401]
    bad = sum(status != good for group, good in zip(done, expected) for status, _ in group)
    held, free = ([latency for _, latency in group] for group in done[:2])
    return len(held), bad, percentile(held, 0.5), percentile(held, 0.99), percentile(free, 0.99), count


async def main():
    random.seed(1)
    folder = tempfile.mkdtemp()
    old, new = Signer(folder, "old"), Signer(folder, "new")
    bodies = {
        "good": json.dumps({"keys": [old.jwk]}).encode(),
        "rotated": json.dumps({"keys": [old.jwk, new.jwk]}).encode(),
        "garbage": random.randbytes(5000),
        "html": b"<html>hello</html>",
    }
    ports = {name: free_port() for name in ("port", "admin", "provider")}
    mode = multiprocessing.Value("i", 0)
    provider = multiprocessing.Process(target=provide, args=(ports["provider"], mode, bodies))
    provider.start()
    config = os.path.join(folder, "gateway.yaml")
    with open(config, "w") as file:
        file.write(CONFIG.format(refresh=REFRESH, timeout=TIMEOUT, cooldown=COOLDOWN, **ports))
    log = open(os.path.join(folder, "log"), "w")
    gateway = subprocess.Popen([GATEWAY, "-c", config], stdout=log, stderr=log)
    try:
        wait_until_ready(ports["admin"])
        return await phases(old, new, ports, mode, provider)
    finally:
        gateway.terminate()
        provider.kill()
        gateway.wait(30)


def wait_until_ready(admin):
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2)
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("the gateway is not ready")


async def phases(old, new, ports, mode, provider):
    tokens = [old.token(f"user{number}") for number in range(TOKENS)]
    fresh = [new.token(f"user{number}") for number in range(TOKENS)]
    print(f"{'the provider …':20} {'requests':>8} {'bad':>5} {'p50 ms':>7} {'p99 ms':>7} "
          f"{'without':>7} {'fetches':>7} {'at most':>7}")
    failed = False
    for index, (name, what) in enumerate(PHASES):
        mode.value = index
        if what == "rotated":
            tokens = tokens[:TOKENS] + fresh
        if what == "gone":
            provider.kill()
        most = most_fetches(what)
        flood = name == "is flooded for"
        count, bad, p50, p99, free, fetched = await phase(ports, tokens, flood)
        wrong = bad > 0 or fetched > most or p99 > max(2 * free, NOISE_MS)
        failed |= wrong
        print(f"{name:20} {count:8} {bad:5} {p50:7.2f} {p99:7.2f} {free:7.2f} {fetched:7.0f} {most:7.0f}"
              f"{'  <-- not as it should be' if wrong else ''}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
