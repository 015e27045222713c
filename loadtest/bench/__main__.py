"""Compares reverse proxies side by side on one machine: `python3 loadtest/bench --help`."""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import load
import machine
import peers
import report
import tokens
from process import Process, wait_until
from scenarios import SCENARIOS

FAILED_SHARE = 0.001
PERFORMANCE = peers.REPOSITORY / "docs" / "performance.md"


@dataclass(frozen=True)
class Settings:
    """How much is measured; each has an environment variable."""

    rounds: int
    seconds: int
    threads: int
    connections: int
    idle: int
    # Where the files of this run are.
    folder: Path = Path()

    @classmethod
    def from_environment(cls):
        """The settings of this run."""
        return cls(
            rounds=number("BENCH_ROUNDS", 5),
            seconds=number("BENCH_SECONDS", 8),
            threads=number("BENCH_THREADS", 1),
            connections=number("BENCH_CONNECTIONS", 32),
            idle=number("BENCH_IDLE", 10_000),
        )

    def warm_up(self, seconds):
        """The same load for a shorter time."""
        return replace(self, seconds=seconds)


def number(name, default):
    """A positive whole number from the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) == 0:
        raise SystemExit(f"bench: {name} is '{text}', expected a positive whole number")
    return int(text)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python3 loadtest/bench",
        description="Compares the gateway, nginx, HAProxy and Envoy as reverse proxies.",
        epilog="Environment: BENCH_ROUNDS, BENCH_SECONDS, BENCH_THREADS, BENCH_CONNECTIONS, "
        "BENCH_IDLE, GATEWAY_BIN, ENVOY_BIN.",
    )
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("scenario", nargs="*", help=f"which to run: {', '.join(names)}; default all")
    parser.add_argument("--peers", help="only these proxies, separated by commas")
    parser.add_argument(
        "--write", action="store_true", help="also put the tables into docs/performance.md"
    )
    given = parser.parse_args()
    unknown = set(given.scenario) - set(names)
    if unknown:
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    return given


def main():
    """Runs the chosen scenarios and prints the report; 1 when too many requests failed or a bar is missed."""
    given = arguments()
    settings = Settings.from_environment()
    # A shell starts background jobs with SIGINT ignored; both signals must end what was started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    missing = [name for name in ("wrk", "h2load", "openssl", "redis-server") if not shutil.which(name)]
    missing += [] if peers.nginx() else ["nginx"]
    if missing:
        raise SystemExit(f"bench: {', '.join(missing)} needed; run it through `make bench`")
    alone = wait_for_turn()
    if machine.raise_open_files(2 * peers.CONNECTIONS + 1000) < settings.idle + 1000:
        raise SystemExit(f"bench: {settings.idle} connections need a higher limit of open files")
    compared = chosen_peers(given.peers)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-", dir=load.shared_memory()) as folder:
        # nginx drops its rights when root starts it, and its worker writes here.
        os.chmod(folder, 0o755)
        results = run(given, settings, compared, Path(folder))
    alone.close()
    text = report.render(results, compared, settings, command_line(given))
    print(text)
    if given.write:
        report.write(PERFORMANCE, text)
    return 1 if complain(results) else 0


def wait_for_turn():
    """Waits while another benchmark measures on this machine; closing the result lets the next in."""
    turn = open(Path(tempfile.gettempdir()) / f"gateway-bench-{os.getuid()}.lock", "w", encoding="utf-8")
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("another benchmark is running here; waiting for its end")
        fcntl.flock(turn, fcntl.LOCK_EX)
    return turn


def chosen_peers(names):
    """The proxies to compare; what is not installed is said and left out."""
    found, missing = peers.installed()
    for reason in missing:
        note(f"left out {reason}")
    if names:
        wanted = names.split(",")
        absent = set(wanted) - {peer.name for peer in found}
        if absent:
            raise SystemExit(f"bench: not available: {', '.join(sorted(absent))}")
        found = [peer for peer in found if peer.name in wanted]
    return found


def run(given, settings, compared, folder):
    """Every chosen scenario, the proxies interleaved, each round in another order."""
    load_core, proxy_core = machine.cores()
    ports = peers.Ports(free_ports(peers.Ports.COUNT))
    peers.certificate(folder)
    chosen = given.scenario or tokens.ALGORITHMS
    tokens.write(folder, {name.partition("_")[0] for name in chosen})
    settings = replace(settings, folder=folder)
    results = {}
    backend = peers.backend_command(folder, ports.backend)
    with Process("backend", backend, load_core, folder / "backend.out") as running:
        wait_until(lambda: load.answers(ports.backend), running)
        for scenario in SCENARIOS:
            if given.scenario and scenario.name not in given.scenario:
                continue
            able = [peer for peer in compared if not scenario.peers or peer.name in scenario.peers]
            results[scenario] = {peer.name: [] for peer in able}
            for turn in range(min(settings.rounds, scenario.rounds)):
                for peer in rotated(able, turn):
                    command = peer.command(folder, ports, scenario.redis)
                    output = folder / f"{peer.name}.out"
                    with (
                        store(scenario, ports, load_core, folder),
                        Process(peer.name, command, proxy_core, output) as proxy,
                    ):
                        wait_until(lambda: load.answers(ports.plain), proxy)
                        figures = scenario.measure(proxy, ports, load_core, settings)
                    results[scenario][peer.name].append(figures)
                    note(f"{scenario.name} {turn + 1} {peer.name}: {summary(figures)}")
                    drop_logs(folder, peer)
    return results


@contextmanager
def store(scenario, ports, core, folder):
    """A Redis for a scenario that needs one."""
    if not scenario.redis:
        yield
        return
    with Process("redis", peers.redis_command(ports.redis), core, folder / "redis.out") as redis:
        wait_until(lambda: load.listens(ports.redis), redis)
        yield


def rotated(items, by):
    """The items in the order of this turn."""
    at = by % max(len(items), 1)
    return [*items[at:], *items[:at]]


def drop_logs(folder, peer):
    """Frees the memory that an access log takes in the shared memory file system."""
    for ending in ("access", "out"):
        (folder / f"{peer.name}.{ending}").unlink(missing_ok=True)


def free_ports(count):
    """The first of `count` ports in a row, below those the kernel gives to clients."""
    for first in range(18_000, 30_000, count):
        probes = [socket.socket() for _ in range(count)]
        try:
            for offset, probe in enumerate(probes):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise SystemExit("bench: no free port")


def summary(figures):
    """One round in a few words for whoever watches."""
    return " ".join(f"{key}={figure:.2f}" for key, figure in figures.items())


def complain(results):
    """Says which proxy failed more requests than a valid measurement may have, and which bar is missed."""
    invalid = False
    for scenario, by_peer in results.items():
        for name, rounds in by_peer.items():
            failed = sum(figures["failed"] for figures in rounds)
            total = sum(figures["requests"] for figures in rounds)
            if failed > total * FAILED_SHARE:
                note(f"{scenario.name}: {name} failed {failed} of {total}; its figures do not count")
                invalid = True
        invalid |= missed(scenario, by_peer.get("gateway"))
    return invalid


def missed(scenario, rounds):
    """Whether the gateway is above the bar that the scenario sets for it; says so."""
    if not scenario.bar or not rounds:
        return False
    key, most = scenario.bar
    reached = median(figures[key] for figures in rounds)
    if reached > most:
        note(f"{scenario.name}: {key} is {reached:.2f}, and may be {most} at most")
    return reached > most


def command_line(given):
    """How to repeat this run."""
    chosen = " ".join(given.scenario)
    return f"make bench BENCH_ARGS='{chosen}'" if chosen else "make bench"


def note(text):
    """Progress, apart from the report on standard output."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        sys.exit(f"bench: {error}")
