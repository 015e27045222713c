"""What a client does to a proxy: requests through wrk, and connections that stay open and idle."""

import json
import socket
import subprocess
from pathlib import Path

from process import pinned

REPORT = Path(__file__).with_name("report.lua")
REQUEST = b"GET /idle HTTP/1.1\r\nHost: bench.test\r\n\r\n"
# Connections from one source address; proxies that bound them per client must not object.
PER_ADDRESS = 500
# Lets the kernel choose the source port at connect, where it knows the whole pair of addresses.
IP_BIND_ADDRESS_NO_PORT = 24


def wrk(port, core, settings, close=False):
    """Runs wrk once against a port of this machine and returns what its report says."""
    command = pinned(core, ["wrk", "-t", str(settings.threads), "-c", str(settings.connections)])
    command += ["-d", f"{settings.seconds}s", "-s", str(REPORT)]
    if close:
        command += ["-H", "Connection: close"]
    command.append(f"http://127.0.0.1:{port}/bench")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=settings.seconds + 20,
        check=False,
        start_new_session=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"wrk gave no report: {done.stdout}{done.stderr}")
    return json.loads(lines[-1])


def answers(port):
    """Whether one request to the port is answered with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            exchange(connection)
    except (OSError, RuntimeError):
        return False
    return True


def open_idle(port, count, into):
    """Opens `count` connections, makes one request on each, and leaves them open in `into`."""
    for index in range(count):
        source = f"127.0.0.{2 + index // PER_ADDRESS}"
        connection = socket.socket()
        into.append(connection)
        connection.settimeout(5)
        connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", port))
        exchange(connection)


def still_open(connections):
    """How many of the idle connections the proxy has kept."""
    kept = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            kept += connection.recv(1) != b""
        except BlockingIOError:
            kept += 1
        except OSError:
            pass
    return kept


def exchange(connection):
    """Sends one request and reads its whole response, which must be a 200."""
    connection.sendall(REQUEST)
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
