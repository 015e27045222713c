"""The machine under the benchmark: its cores, its limits, and how it is described in a report."""

import os
import platform
import resource
import subprocess


def cores():
    """The core of the load and the core of the proxy, or an error where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("bench: two cores are needed, one for the proxy and one for the load")
    return available[0], available[-1]


def busy_seconds(core):
    """What one core has done so far, whoever did it, time taken by other guests included."""
    with open("/proc/stat", encoding="utf-8") as lines:
        for line in lines:
            name, *ticks = line.split()
            if name == f"cpu{core}":
                user, nice, system, _idle, _wait, *rest = (int(tick) for tick in ticks[:8])
                return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    raise RuntimeError(f"/proc/stat does not know core {core}")


def raise_open_files(wanted):
    """Raises the limit of open files for this process and those it starts, as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def cpu_model():
    """The processor's name as the kernel gives it."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_gib():
    """Installed memory in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def first_line(command):
    """The first line that a version command prints, on whichever stream."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown version"


def describe():
    """The machine in one line."""
    return (
        f"{cpu_model()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB, "
        f"Linux {platform.release()} {platform.machine()}"
    )
