"""A program that the benchmark started: where it runs, what it used, and that it ends."""

import os
import signal
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 3.0


class Process:
    """One started program with its descendants, pinned to a core and ended on exit."""

    def __init__(self, name, command, core, log, environment=None):
        self.name = name
        self.core = core
        self.log = log
        with open(log, "wb") as output:
            self.child = subprocess.Popen(
                pinned(core, command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def running(self):
        """Whether the program has not ended by itself."""
        return self.child.poll() is None

    def stop(self):
        """Asks the program to end, and after a short while makes it and its descendants end."""
        started = self.tree()
        if self.running():
            self.child.terminate()
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        for pid, birth in started.items():
            if pid != self.child.pid and stat(pid, birth):
                os.kill(pid, signal.SIGKILL)

    def tree(self):
        """The process and its living descendants, as pid to start time."""
        children = {}
        births = {}
        for entry in os.listdir("/proc"):
            fields = stat(int(entry)) if entry.isdigit() else None
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
                births[int(entry)] = fields[19]
        found, pending = {}, [self.child.pid]
        while pending:
            pid = pending.pop()
            if pid in births:
                found[pid] = births[pid]
                pending.extend(children.get(pid, ()))
        return found

    def cpu_seconds(self):
        """User and system time of the tree so far, its ended and awaited children included."""
        ticks = 0
        for pid in self.tree():
            fields = stat(pid)
            if fields:
                ticks += sum(int(field) for field in fields[11:15])
        return ticks / TICKS

    def clocks(self):
        """The clocks of `time.clock_gettime` that count the processor time of the tree as it is now. They go on
        with each tick of the kernel's."""
        return [~pid << 3 | 2 for pid in self.tree()]

    def threads(self, name):
        """The files that say what the threads of this name have used."""
        found = []
        for pid in self.tree():
            for thread in os.listdir(f"/proc/{pid}/task"):
                folder = f"/proc/{pid}/task/{thread}"
                with open(f"{folder}/comm", encoding="utf-8") as comm:
                    if comm.read().strip() == name:
                        found.append(f"{folder}/schedstat")
        return found

    def memory_kib(self, key):
        """A memory line of /proc/PID/status summed over the tree: `VmRSS`, or `VmHWM` (peak)."""
        return sum(status_kib(pid, key) for pid in self.tree())

    def tail(self, lines=5):
        """The end of what the program printed, for an error message."""
        with open(self.log, encoding="utf-8", errors="replace") as text:
            return "".join(text.readlines()[-lines:]).strip()


def pinned(core, command):
    """The command on one core, and ended with this script even when that is killed outright."""
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *command]


def stat(pid, birth=None):
    """/proc/PID/stat after the command's name, or `None` when that process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as text:
            fields = text.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if birth is not None and fields[19] != birth else fields


def spent(threads):
    """The processor seconds so far of `Process.threads`."""
    nanos = 0
    for thread in threads:
        with open(thread, encoding="utf-8") as text:
            nanos += int(text.read().split()[0])
    return nanos / 1e9


def status_kib(pid, key):
    """One line of /proc/PID/status in KiB; zero when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as text:
            for line in text:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def wait_until(ready, process, seconds=10.0):
    """Waits until `ready()` holds, and fails when the program ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not process.running():
            raise RuntimeError(f"{process.name} ended at start: {process.tail()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.name} does not answer: {process.tail()}")
        time.sleep(0.05)
