"""Clients at a constant rate that do not wait for each other: what is measured begins when each was due.

A client sends a request once. What comes back counts as good only when it is exactly what a backend says
to that request.
"""

import asyncio
import gc
import random
import signal
import time
from dataclasses import dataclass

from backends import server

# A client gives up then.
PATIENCE = 5.0
MAX_CONNECTIONS = 2000
# One request of so many goes to a backend that is left in peace, and around the proxy.
ASIDE = 8

GOOD = "ok"

# The kinds of requests, in tenths. Mixed, so that none falls on the same backend again and again where
# they take turns.
MIX = random.Random(1).choices(range(10), k=1009)


@dataclass(slots=True)
class Result:
    """What became of one request."""

    due: float
    millis: float
    kind: str
    outcome: str
    backend: str

    @property
    def good(self):
        return self.outcome == GOOD


def request(turn):
    """A mix: what may be repeated by nature, what may because of its key, and what may not."""
    place = MIX[turn % len(MIX)]
    if place < 7:
        path, kind = b"/items/%d" % turn, "GET"
        return kind, path, b"", b"GET %s HTTP/1.1\r\nHost: app.test\r\n\r\n" % path
    path, kind, key = b"/events/%d" % turn, "POST", b""
    if place < 9:
        path, kind, key = b"/orders/%d" % turn, "POST keyed", b"Idempotency-Key: \"%d\"\r\n" % turn
    body = b'{"turn":%d,"text":"a small body"}' % turn
    head = b"POST %s HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n"
    return kind, path, body, head % (path, key, len(body)) + body


class Pool:
    """Connections to one address, used again while they are good."""

    def __init__(self, address):
        self.address, self.idle, self.open = address, [], 0

    async def connection(self):
        while self.idle:
            connection = self.idle.pop()
            if not connection.over:
                return connection
        if self.open >= MAX_CONNECTIONS:
            return None
        self.open += 1
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self), *self.address)
        except OSError:
            self.open -= 1
            return None
        return connection


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pool):
        self.pool, self.over, self.waiter, self.transport = pool, False, None, None
        self.buffer, self.needed, self.head = b"", None, b""

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, _error):
        self.over = True
        self.pool.open -= 1
        if self.needed == -1:
            self.end(self.buffer)
        elif self.waiter:
            self.waiter("cut off" if self.head else "closed", "", b"")
            self.waiter = None

    def send(self, data, waiter):
        self.buffer, self.needed, self.head, self.waiter = b"", None, b"", waiter
        self.transport.write(data)

    def data_received(self, data):
        self.buffer += data
        if self.needed is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head, self.buffer = self.buffer[:end + 2], self.buffer[end + 4:]
            length = self.field(b"content-length")
            # Without a length it is all until the end; no proxy here sends chunks.
            self.needed = int(length) if length else -1
        if 0 <= self.needed <= len(self.buffer):
            self.end(self.buffer)

    def field(self, name):
        """The value of a field of the response, or nothing."""
        at = self.head.lower().find(b"\r\n" + name + b":")
        return self.head[at + len(name) + 3:].split(b"\r\n", 1)[0].strip() if at >= 0 else b""

    def end(self, body):
        waiter, self.waiter, self.needed = self.waiter, None, None
        last = self.field(b"connection").lower() == b"close"
        if last or self.over:
            self.over = True
            self.transport.close()
        if waiter:
            status = self.head.split(b" ", 2)[1].decode()
            waiter(status, self.field(b"x-backend").decode(), body)
        if not self.over:
            self.pool.idle.append(self)

    def give_up(self):
        """The client has waited long enough."""
        if self.waiter:
            waiter, self.waiter = self.waiter, None
            self.transport.abort()
            waiter("no answer", "", b"")


class Load:
    """A schedule of requests and what became of each."""

    def __init__(self, proxy, aside, rate, begin, seconds):
        self.proxy, self.aside = Pool(proxy), Pool(aside)
        self.rate, self.begin, self.seconds = rate, begin, seconds
        self.results, self.noise, self.waiting = [], [], set()

    async def run(self):
        for turn in range(int(self.rate * self.seconds)):
            due = self.begin + turn / self.rate
            await asyncio.sleep(max(0, due - time.monotonic()))
            self.spawn(self.proxy, turn, due, self.results)
            if turn % ASIDE == 0:
                self.spawn(self.aside, turn, due, self.noise)
        if self.waiting:
            await asyncio.wait(self.waiting)
        return self.results, self.noise

    def spawn(self, pool, turn, due, results):
        task = asyncio.ensure_future(self.one(pool, turn, due, results))
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)

    async def one(self, pool, turn, due, results):
        kind, path, body, data = request(turn)
        connection = await pool.connection()
        if connection is None:
            results.append(Result(due, (time.monotonic() - due) * 1000, kind, "no connection", ""))
            return
        loop = asyncio.get_running_loop()
        answered = loop.create_future()

        def take(status, backend, said):
            outcome = status
            if status == "200":
                outcome = GOOD if said == server.answer_to(path, body) else "another body"
            millis = (time.monotonic() - due) * 1000
            results.append(Result(due, millis, kind, outcome, backend))
            if not answered.done():
                answered.set_result(None)

        timer = loop.call_at(loop.time() + due + PATIENCE - time.monotonic(), connection.give_up)
        connection.send(data, take)
        await answered
        timer.cancel()


def run(pipe, *arguments):
    """In a process of its own, so that nothing but the load is in the way of the load."""
    server.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    pipe.send(asyncio.run(Load(*arguments).run()))
    pipe.close()


class Running:
    """A load under way."""

    def __init__(self, *arguments):
        self.pipe, theirs = server.processes.Pipe(duplex=False)
        self.process = server.processes.Process(target=run, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def results(self, seconds):
        """All of them, when it has ended."""
        if not self.pipe.poll(seconds):
            raise SystemExit("the load does not end")
        results = self.pipe.recv()
        self.process.join()
        return results

    def kill(self):
        self.process.kill()
