"""What a client does to a proxy: requests as fast as it answers, and connections that stay idle."""

import json
import math
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import tokens
from process import pinned

REPORT = Path(__file__).with_name("report.lua")
TOKENS = Path(__file__).with_name("tokens.lua")
TURNS = Path(__file__).with_name("turns.lua")
HANDSHAKES = Path(__file__).with_name("handshakes.py")
# The name in the certificate of `peers.certificate`.
SERVER_NAME = "bench.test"
REQUEST = b"GET /idle HTTP/1.1\r\nHost: bench.test\r\n\r\n"
CLOSING = b"GET /bench HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n"
# Streams at once on each HTTP/2 connection.
STREAMS = 10
# Connections from one source address; proxies that bound them per client must not object.
PER_ADDRESS = 500
# Lets the kernel choose the source port at connect, where it knows the whole pair of addresses.
IP_BIND_ADDRESS_NO_PORT = 24


def wrk(port, core, settings, close=False, scheme="http"):
    """Runs wrk once against a port of this machine and returns what its report says."""
    command = ["wrk", "-t", str(settings.threads), "-c", str(settings.connections)]
    command += ["-d", f"{settings.seconds}s", "-s", str(REPORT)]
    if close:
        command += ["-H", "Connection: close"]
    command.append(f"{scheme}://127.0.0.1:{port}/bench")
    return last_json(run(command, core, settings))


def wrk_close(port, core, settings):
    """The same with a connection for every request."""
    return wrk(port, core, settings, close=True)


def wrk_tls(port, core, settings):
    """The same over TLS connections that stay open."""
    return wrk(port, core, settings, scheme="https")


def wrk_tokens(algorithm, count, port, core, settings):
    """Requests that need a token of this algorithm, each with the next of so many."""
    path, file = f"/{algorithm}", tokens.path(settings.folder, algorithm, count)
    command = ["wrk", "-t", str(settings.threads), "-c", str(settings.connections)]
    command += ["-d", f"{settings.seconds}s", "-s", str(TOKENS)]
    command += [f"http://127.0.0.1:{port}{path}", "--", str(file)]
    return last_json(run(["env", f"REPORT={REPORT}", *command], core, settings))


def wrk_turns(paths, keys, seconds, port, core, settings):
    """Requests for two paths by turns of so many seconds, each with the next of so many keys. Returns the
    requests of each turn, by its number since the beginning of the monotonic clock, and the report."""
    command = ["wrk", "-t", str(settings.threads), "-c", str(settings.connections)]
    command += ["-d", f"{settings.seconds}s", "-s", str(TURNS), f"http://127.0.0.1:{port}"]
    command += ["--", str(keys), str(seconds), *paths]
    text = run(["env", f"REPORT={REPORT}", *command], core, settings)
    counts = json.loads(text.strip().splitlines()[-2])
    return {int(turn): count for turn, count in counts.items()}, last_json(text)


def handshakes(port, core, settings):
    """A new TLS connection, never a resumed one, for every request."""
    command = [sys.executable, "-B", str(HANDSHAKES), str(port), str(settings.seconds)]
    return last_json(run([*command, str(settings.connections)], core, settings))


def h2load(port, core, settings):
    """Requests as streams of HTTP/2 connections over TLS."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", dir=shared_memory()) as log:
        command = ["h2load", "-t", str(settings.threads), "-c", str(settings.connections)]
        command += ["-m", str(STREAMS), "-D", str(settings.seconds), f"--log-file={log.name}"]
        command += ["-H", f":authority: {SERVER_NAME}", f"https://127.0.0.1:{port}/bench"]
        text = run(command, core, settings)
        # A line a request: when it began, its status, and how long it took in microseconds.
        times = [int(line.split()[2]) for line in log]
    count = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", text)
    if not count or "Application protocol: h2" not in text:
        raise RuntimeError(f"h2load gave no report: {text}")
    good = int(re.search(r"(\d+) 2xx", text)[1])
    failed = sum(int(group) for group in count.groups()) + max(len(times) - good, 0)
    return report(times, settings.seconds * 1e6, failed)


def run(command, core, settings):
    """What a load generator on this core prints, errors included."""
    done = subprocess.run(
        pinned(core, command),
        capture_output=True,
        text=True,
        timeout=settings.seconds + 20,
        check=False,
        start_new_session=True,
    )
    return done.stdout + done.stderr


def last_json(text):
    """The last line of JSON."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"the load generator gave no report: {text}")
    return json.loads(lines[-1])


def report(times, duration, failed):
    """The same figures that wrk's report has; all times are microseconds."""
    times = sorted(times)
    return {
        "requests": len(times),
        "duration": duration,
        "p50": percentile(times, 50),
        "p99": percentile(times, 99),
        "failed": failed,
    }


def percentile(times, percent):
    """The nearest rank of sorted times; zero when there are none."""
    return times[max(math.ceil(len(times) * percent / 100) - 1, 0)] if times else 0


def shared_memory():
    """Where a file costs no disk, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def tls_context():
    """A client that believes any certificate: what is measured is the other side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def answers(port):
    """Whether one request to the port is answered with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            exchange(connection)
    except (OSError, RuntimeError):
        return False
    return True


def listens(port):
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def open_idle(port, count, into, tls=False):
    """Opens `count` connections, makes one request on each, and leaves them open in `into`."""
    context = tls_context() if tls else None
    for index in range(count):
        source = f"127.0.0.{2 + index // PER_ADDRESS}"
        connection = socket.socket()
        into.append(connection)
        connection.settimeout(5)
        connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", port))
        if context:
            connection = context.wrap_socket(connection, server_hostname=SERVER_NAME)
            into[-1] = connection
        exchange(connection)


def still_open(connections):
    """How many of the idle connections the proxy has kept."""
    kept = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            kept += connection.recv(1) != b""
        except (BlockingIOError, ssl.SSLWantReadError):
            kept += 1
        except OSError:
            pass
    return kept


def exchange(connection, request=REQUEST):
    """Sends one request and reads its whole response, which must be a 200."""
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += read_some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"unexpected answer: {head[:80]!r}")
    missing = content_length(head) - len(body)
    while missing > 0:
        missing -= len(read_some(connection))


def read_some(connection):
    """The next bytes, or an error when the other side has closed."""
    received = connection.recv(65536)
    if not received:
        raise RuntimeError("closed before the response was complete")
    return received


def content_length(head):
    """The body's length as the header declares it."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise RuntimeError("a response without Content-Length")
