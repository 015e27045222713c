"""What the scripts about rate limits share: gateways, a Redis, and clients that send many requests at once.

Everything listens on free ports of this machine, and ends with the script.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GATEWAY = os.environ.get("GATEWAY_BIN", os.path.join(ROOT, "target/release/gateway"))
# Requests that a client sends before it reads the answers.
PIPELINE = 64
START_SECONDS = 30

STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
# A status line that is cut off by the end of a read; one byte less than a whole one.
LONGEST_CUT = 11

CONFIG = """\
server: {{ threads: {threads} }}
listeners: [{{ name: main, address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
access_log: {{ enabled: false }}
{redis}
ratelimit:
  {settings}
  policies:
{policies}
routes:
{routes}
"""


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def number(name, default):
    """A positive whole number from the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) == 0:
        sys.exit(f"{name} is '{text}', expected a positive whole number")
    return int(text)


class Redis:
    """A redis-server that keeps nothing on disk, and can be hurt."""

    def __init__(self, folder):
        self.port = free_port()
        self.folder = folder
        self.process = None
        self.start()

    def start(self):
        program = shutil.which("redis-server") or sys.exit("redis-server is not installed")
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                   "--appendonly", "no", "--dir", self.folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.ask("PING") == b"+PONG\r\n", "redis-server")

    def ask(self, *words):
        """One command and the beginning of its answer."""
        with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
            parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            return connection.recv(1 << 16)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Gateway:
    """One gateway whose routes `/POLICY` each have one policy and answer by themselves."""

    def __init__(self, folder, name, policies, settings="", redis_port=None, threads=1):
        self.port, self.admin = free_port(), free_port()
        file = os.path.join(folder, f"{name}.yaml")
        redis = f'redis: {{ url: "redis://127.0.0.1:{redis_port}" }}' if redis_port else ""
        text = CONFIG.format(
            port=self.port, admin=self.admin, threads=threads, redis=redis,
            settings=settings or "failure_mode: fail_local",
            policies="\n".join(f"    {policy}: {{ {text} }}" for policy, text in policies.items()),
            routes="\n".join(
                f"  - {{ name: {policy}, match: {{ path: /{policy} }}, ratelimit: {policy}, respond: {{ body: ok }} }}"
                for policy in policies),
        )
        with open(file, "w", encoding="utf-8") as out:
            out.write(text)
        self.log = os.path.join(folder, f"{name}.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([GATEWAY, "-c", file], stdout=log, stderr=log)
        wait_until(lambda: self.get("/ready") is not None, f"{GATEWAY} -c {file}", self.process)

    def get(self, path):
        """What the operators' listener says."""
        try:
            url = f"http://127.0.0.1:{self.admin}{path}"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def metric(self, prefix):
        """The sum of all metrics whose line begins so."""
        lines = (self.get("/metrics") or "").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(prefix))

    def rss_mib(self):
        """What it has in memory."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def wait_until(holds, what, process=None):
    """Waits for a condition, and gives up when its program has ended or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        if (process and process.poll() is not None) or time.monotonic() > deadline:
            sys.exit(f"{what} did not start")
        time.sleep(0.05)


class Rig:
    """What was started, and its folder; ends with the block."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="gateway-ratelimit-")
        self.started = []
        return self

    def add(self, program):
        self.started.append(program)
        return program

    def redis(self):
        return self.add(Redis(self.folder))

    def gateway(self, *arguments, **settings):
        return self.add(Gateway(self.folder, f"gateway{len(self.started)}", *arguments, **settings))

    def stop(self, program):
        """Ends one of them now."""
        self.started.remove(program)
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGCONT)
            program.process.terminate()
        try:
            program.process.wait(10)
        except subprocess.TimeoutExpired:
            program.process.kill()
            program.process.wait()

    def __exit__(self, *_):
        for program in reversed(list(self.started)):
            self.stop(program)
        shutil.rmtree(self.folder, ignore_errors=True)


class Pipe(asyncio.Protocol):
    """A connection on which many requests are sent before their answers are read."""

    def __init__(self):
        self.rest, self.statuses, self.wanted, self.done = b"", [], 0, None

    @classmethod
    async def to(cls, port):
        loop = asyncio.get_running_loop()
        transport, pipe = await loop.create_connection(cls, "127.0.0.1", port)
        pipe.transport = transport
        return pipe

    def data_received(self, data):
        data = self.rest + data
        end = 0
        for found in STATUS.finditer(data):
            self.statuses.append(int(found[1]))
            end = found.end()
        self.rest = data[max(end, len(data) - LONGEST_CUT):]
        if self.done and len(self.statuses) >= self.wanted:
            self.done.set_result(self.statuses)
            self.done = None

    def connection_lost(self, _error):
        if self.done:
            missing = self.wanted - len(self.statuses)
            self.done.set_result(self.statuses + [0] * missing)
            self.done = None

    async def ask(self, requests):
        """The statuses of these requests; 0 for those that were not answered."""
        if self.transport.is_closing():
            return [0] * len(requests)
        self.statuses, self.wanted = [], len(requests)
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(b"".join(requests))
        return await self.done

    def close(self):
        self.transport.close()


def request(path, key):
    """One request, counted by this key."""
    return f"GET /{path} HTTP/1.1\r\nHost: t\r\nx-key: {key}\r\n\r\n".encode()


async def probe(port, path, keys, seconds, rate, connections=8):
    """Single requests at a constant rate, whatever became of those before. Gives (status, milliseconds
    since it was due, second in which it was due) of each; the keys take turns."""
    jobs, results = asyncio.Queue(), []
    begin = time.monotonic()

    async def work():
        pipe = await Pipe.to(port)
        while (job := await jobs.get()) is not None:
            due, key = job
            [status] = await pipe.ask([request(path, key)])
            results.append((status, (time.monotonic() - due) * 1000, due - begin))
            if status == 0:
                pipe = await Pipe.to(port)
        pipe.close()

    workers = [asyncio.create_task(work()) for _ in range(connections)]
    for turn in range(int(seconds * rate)):
        due = begin + turn / rate
        await asyncio.sleep(max(0, due - time.monotonic()))
        jobs.put_nowait((due, keys[turn % len(keys)]))
    for _ in workers:
        jobs.put_nowait(None)
    await asyncio.wait_for(asyncio.gather(*workers), seconds + 30)
    return results


def percentile(values, share):
    """The smallest value that so great a share of them is not above."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0
