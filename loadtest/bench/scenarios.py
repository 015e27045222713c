"""The scenarios: what is done to each proxy, what is measured, and how the result is shown."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Callable

import load
import machine
import tokens
import turns

WARM_UP_SECONDS = 1
# Keys of the scenarios with limits.
LIMIT_KEYS = 1_000
# Of a run with limits at least: what one costs is little beside what runs differ by.
LIMIT_SECONDS = 60
# Between the last request and reading memory, so that what a proxy frees late is freed.
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Column:
    """One figure of a scenario."""

    key: str
    title: str
    form: str
    # Whether it is also shown as a multiple of nginx's figure.
    ratio: bool = False


@dataclass(frozen=True)
class Scenario:
    """One thing that is done to every proxy in turn."""

    name: str
    title: str
    about: str
    # Called with (process, its ports, core of the load, settings); returns figures by column key.
    measure: Callable
    columns: tuple
    # The proxies that can do it; all of them when empty.
    peers: tuple = ()
    # Rounds at most: a figure that does not vary needs no repetition.
    rounds: int = 1000
    # What the gateway's median of one column may be at most: (column key, figure).
    bar: tuple = ()
    # Whether the gateway needs a Redis.
    redis: bool = False


def traffic(run, tls=False):
    """Requests as fast as the proxy answers, and the time it spent on each."""

    def measure(process, ports, core, settings):
        port = ports.tls if tls else ports.plain
        run(port, core, settings.warm_up(WARM_UP_SECONDS))
        before, core_before = process.cpu_seconds(), machine.busy_seconds(process.core)
        report = run(port, core, settings)
        cpu = process.cpu_seconds() - before
        others = machine.busy_seconds(process.core) - core_before - cpu
        seconds = report["duration"] / 1e6
        completed = max(report["requests"], 1)
        return {
            "rate": report["requests"] / seconds,
            "p50": report["p50"] / 1000,
            "p99": report["p99"] / 1000,
            "cpu": cpu / completed * 1e6,
            "busy": cpu / seconds * 100,
            "others": max(others, 0) / seconds * 100,
            "peak": process.memory_kib("VmHWM") / 1024,
            "failed": report["failed"],
            "requests": report["requests"],
        }

    return measure


def limited(path, aside=None):
    """What a limit adds to a request, beside one that is not limited. What the thread `aside` does for it comes on
    top: nobody can say for which turn it works, so that is measured while all requests are limited."""

    def measure(process, ports, core, settings):
        longer = settings.warm_up(max(settings.seconds, LIMIT_SECONDS))
        paths = ["/limit_off", f"/{path}"]
        load.wrk_turns(paths, LIMIT_KEYS, turns.TURN, ports.plain, core, settings.warm_up(WARM_UP_SECONDS))
        threads = process.threads(aside) if aside else []
        if aside and not threads:
            raise RuntimeError(f"{process.name} has no thread '{aside}'")
        on = (LIMIT_KEYS, ports.plain, core, longer)
        without, adds, report = turns.compare(process, threads, paths, *on)
        if threads:
            adds += turns.beside(process, threads, paths[1], *on)
        return {
            "rate": report["requests"] / report["duration"] * 1e6,
            "p99": report["p99"] / 1000,
            "without": without,
            "adds": adds,
            "peak": process.memory_kib("VmHWM") / 1024,
            "failed": report["failed"],
            "requests": report["requests"],
        }

    return measure


def idle(tls=False):
    """Memory with many connections that have made one request each and stay open."""

    def measure(process, ports, _core, settings):
        before = process.memory_kib("VmRSS")
        connections = []
        try:
            load.open_idle(ports.tls if tls else ports.plain, settings.idle, connections, tls)
            time.sleep(SETTLE_SECONDS)
            after = process.memory_kib("VmRSS")
            kept = load.still_open(connections)
        finally:
            for connection in connections:
                connection.close()
        return {
            "before": before / 1024,
            "after": after / 1024,
            "each": (after - before) / settings.idle,
            "peak": process.memory_kib("VmHWM") / 1024,
            "failed": settings.idle - kept,
            "requests": settings.idle,
        }

    return measure


TRAFFIC = (
    Column("rate", "requests/s", "{:,.0f}"),
    Column("p50", "p50 ms", "{:.2f}"),
    Column("p99", "p99 ms", "{:.2f}"),
    Column("cpu", "CPU µs/request", "{:.1f}", ratio=True),
    Column("busy", "of its core %", "{:.0f}"),
    # Other programs and other guests on that core: above a few per cent, measure again.
    Column("others", "others there %", "{:.0f}"),
    Column("peak", "peak MiB", "{:.1f}"),
    Column("failed", "failed", "{:.0f}"),
)

LIMITED = (
    Column("rate", "requests/s of both", "{:,.0f}"),
    Column("p99", "p99 ms of both", "{:.2f}"),
    Column("without", "CPU µs/request without", "{:.2f}"),
    Column("adds", "it adds µs", "{:.2f}"),
    Column("peak", "peak MiB", "{:.1f}"),
    Column("failed", "failed", "{:.0f}"),
)

IDLE = (
    Column("before", "MiB before", "{:.1f}"),
    Column("after", "MiB with all open", "{:.1f}", ratio=True),
    Column("each", "KiB a connection", "{:.2f}"),
    Column("peak", "peak MiB", "{:.1f}"),
    Column("failed", "closed early", "{:.0f}"),
)


def authenticated(algorithm, fresh):
    """Requests with a token of this algorithm: those of a population, or each one new."""
    count = tokens.FRESH if fresh else tokens.POPULATION
    about = (
        f"{count:,} tokens in turn, more than a cache holds: each signature is checked."
        if fresh
        else f"{count:,} clients that use their token again and again."
    )
    return Scenario(
        f"{algorithm}_fresh" if fresh else algorithm,
        f"Requests with {algorithm.upper()} tokens" + (", each one new" if fresh else ""),
        f"As `proxy`, with a JWT checked for signature, issuer and time. {about}",
        traffic(partial(load.wrk_tokens, algorithm, count)),
        TRAFFIC,
        # nginx has no such check in its free edition.
        peers=("gateway", "haproxy", "envoy"),
    )


SCENARIOS = (
    Scenario(
        "proxy",
        "Proxying 1 KiB responses",
        "Keep-alive on both sides, access log on everywhere, the gateway's metrics on.",
        traffic(load.wrk),
        TRAFFIC,
    ),
    Scenario(
        "newconn",
        "A new connection for every request",
        "`Connection: close` from the client, keep-alive to the backend, access log on.",
        traffic(load.wrk_close),
        TRAFFIC,
    ),
    Scenario(
        "tls_handshake",
        "A new TLS connection for every request",
        "TLS 1.3 with an ECDSA certificate on P-256 and no resumption; `Connection: close`. The client "
        "is slower than the proxies, so only the processor time counts; it includes one request.",
        traffic(load.handshakes, tls=True),
        TRAFFIC,
    ),
    Scenario(
        "tls_proxy",
        "Proxying 1 KiB responses over TLS",
        "As `proxy`, over TLS connections that stay open.",
        traffic(load.wrk_tls, tls=True),
        TRAFFIC,
    ),
    Scenario(
        "h2",
        "Proxying 1 KiB responses over HTTP/2",
        f"TLS, {load.STREAMS} streams at once on each connection, HTTP/1.1 to the backend.",
        traffic(load.h2load, tls=True),
        TRAFFIC,
    ),
    Scenario(
        "idle",
        "Idle keep-alive connections",
        "Each connection makes one request and then stays open.",
        idle(),
        IDLE,
        rounds=1,
    ),
    Scenario(
        "idle_tls",
        "Idle keep-alive connections over TLS",
        "As `idle`, each connection after a full TLS 1.3 handshake.",
        idle(tls=True),
        IDLE,
        rounds=1,
    ),
    Scenario(
        "limit_node",
        "What a limit costs that a proxy counts by itself",
        f"{LIMIT_KEYS:,} keys in turn, a header, far within their limit: nginx `limit_req`, HAProxy a "
        f"stick-table, Envoy one bucket for all; by turns of {turns.TURN * 1000:.0f} ms with requests that are "
        "not limited.",
        limited("limit_node"),
        LIMITED,
        bar=("adds", 0.5),
    ),
    Scenario(
        "limit_fast",
        "What a limit costs that instances count together",
        "As `limit_node`, with `scope: shared` and `mode: fast` and a Redis on the other core.",
        limited("limit_fast", aside="redis"),
        LIMITED,
        peers=("gateway",),
        bar=("adds", 1.0),
        redis=True,
    ),
    *(authenticated(one, fresh) for one in tokens.ALGORITHMS for fresh in (False, True)),
)
