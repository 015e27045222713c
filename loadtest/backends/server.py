"""Backends that can be hurt: a process each, HTTP/1.1, and counts of what reached them.

All listen on the same port, each on a loopback address of its own, so that a name in DNS can stand for
them. What they count is in shared memory, and stays readable when they are dead.
"""

import asyncio
import ctypes
import multiprocessing.sharedctypes
import os
import random
import signal
import socket
import struct
import time
import zlib

# How a backend behaves. Health checks notice `slow`, and nothing of the other three.
GOOD, SLOW, ERRORS, RESETS, UNAVAILABLE = range(5)
SLOW_SECONDS = 2.0
ERROR_SHARE = 0.3
# What an answer takes, at least and at most.
LEAST_SECONDS, MOST_SECONDS = 0.002, 0.008
# Between the first half of a body and the reset: the half has arrived, and was passed on if it ever is.
HALF_SECONDS = 0.005
BODY_BYTES = 4096
START_SECONDS = 10
PR_SET_PDEATHSIG = 1

processes = multiprocessing.get_context("fork")


def die_with_parent():
    """Has the kernel end this process when the script ends, however that comes."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def answer_to(path, body):
    """What a good answer to this request is, whoever gives it."""
    if body:
        return b"%s:%08x\n" % (path, zlib.crc32(body))
    return (path + b";").ljust(BODY_BYTES, b".")


class Backend:
    """One backend, as the script sees it."""

    def __init__(self, index, port):
        self.index, self.address, self.port = index, f"127.0.1.{index}", port
        # requests, connections, health checks
        self.counts = multiprocessing.sharedctypes.RawArray("Q", 3)
        self.state = multiprocessing.sharedctypes.RawValue("i", GOOD)
        self.process = None

    @property
    def requests(self):
        return self.counts[0]

    @property
    def connections(self):
        return self.counts[1]

    def behave(self, state):
        self.state.value = state

    def start(self):
        """Returns when it accepts."""
        self.process = processes.Process(target=serve, args=(self,), daemon=True)
        self.process.start()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.address, self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"backend {self.index} does not accept")

    def kill(self):
        """As a machine that loses power, but that its system says so."""
        if self.process:
            self.process.kill()
            self.process.join()
            self.process = None

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def retire(self, patience=5):
        """As a release does it: no new connections, idle ones closed, the rest finished."""
        if self.process:
            self.process.terminate()
            self.process.join(patience)
            self.kill()


def serve(backend):
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    random.seed(backend.index)
    asyncio.run(Serving(backend).run())


class Serving:
    """The backend, as it sees itself."""

    def __init__(self, backend):
        self.backend, self.connections, self.ending = backend, set(), False

    async def run(self):
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        server = await loop.create_server(lambda: Connection(self), self.backend.address,
                                          self.backend.port, backlog=1024)
        await stopped.wait()
        server.close()
        self.ending = True
        for connection in list(self.connections):
            connection.close_if_idle()
        while self.connections:
            await asyncio.sleep(0.01)


class Connection(asyncio.Protocol):
    """Requests on one connection, one after another."""

    def __init__(self, serving):
        self.serving, self.counts, self.state = serving, serving.backend.counts, serving.backend.state
        self.name = b"%d" % serving.backend.index
        self.buffer, self.busy, self.transport = b"", False, None

    def connection_made(self, transport):
        self.transport = transport
        self.counts[1] += 1
        self.serving.connections.add(self)

    def connection_lost(self, _error):
        self.serving.connections.discard(self)

    def close_if_idle(self):
        if not self.busy and not self.buffer:
            self.transport.close()

    def data_received(self, data):
        self.buffer += data
        if not self.busy:
            self.next()

    def next(self):
        """Takes one request from what has arrived, if it is whole."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        length = 0
        if (at := head.find(b"\r\ncontent-length:")) >= 0:
            length = int(head[at + 17:].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + length:
            return
        path = self.buffer.split(b" ", 2)[1]
        body = self.buffer[end + 4:end + 4 + length]
        self.buffer = self.buffer[end + 4 + length:]
        self.busy = True
        self.work(path, body)

    def work(self, path, body):
        state, loop = self.state.value, asyncio.get_running_loop()
        delay = SLOW_SECONDS if state == SLOW else 0
        if path == b"/health":
            self.counts[2] += 1
            loop.call_later(delay, self.answer, b"200 OK", b"well\n")
            return
        self.counts[0] += 1
        delay += random.uniform(LEAST_SECONDS, MOST_SECONDS)
        if state == RESETS:
            loop.call_later(delay, self.break_off, answer_to(path, body))
        elif state == UNAVAILABLE:
            loop.call_later(delay, self.answer, b"503 Service Unavailable", b"unavailable\n")
        elif state == ERRORS and random.random() < ERROR_SHARE:
            loop.call_later(delay, self.answer, b"500 Internal Server Error", b"error\n")
        else:
            loop.call_later(delay, self.answer, b"200 OK", answer_to(path, body))

    def answer(self, status, body):
        self.write(status, len(body), body)
        self.busy = False
        if self.serving.ending:
            self.transport.close()
        elif self.buffer:
            self.next()

    def write(self, status, length, body):
        last = b"Connection: close\r\n" if self.serving.ending else b""
        self.transport.write(b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
                             b"X-Backend: %s\r\n%s\r\n%s" % (status, length, self.name, last, body))

    def break_off(self, body):
        self.write(b"200 OK", len(body), body[:len(body) // 2])
        asyncio.get_running_loop().call_later(HALF_SECONDS, self.reset)

    def reset(self):
        if not self.transport.is_closing():
            # Seconds to linger: none, which makes closing a reset.
            now = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.transport.abort()
