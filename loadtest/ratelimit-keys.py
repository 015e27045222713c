#!/usr/bin/env python3
"""A million keys in a minute: does the memory stay within its bound, and does anybody else notice?

One client sends requests with a new key each, at a constant rate, while others with a key of their own make
ordinary requests to the same policy. Once with `scope: node`, once with `mode: fast` and a Redis. The bound
is what the configuration's reference says of `max_keys`, for each key and its one limit.

Fails when the memory grows beyond the bound and SLACK_MIB (24: connections and what the allocator keeps), when
a request fails, or when the others' p99 is more than twice what it is undisturbed (and above NOISE_MS, 5).
About two and a half minutes. Parameters from the environment: GATEWAY_BIN, FLOOD (keys, 1000000),
SECONDS (60), RATE (ordinary requests a second, 200), MAX_KEYS (100000). Arguments choose: `node`, `fast`.
"""

import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from ratelimit_rig import Pipe, Rig, number, percentile, probe, request

FLOOD = number("FLOOD", 1_000_000)
SECONDS = number("SECONDS", 60)
RATE = number("RATE", 200)
MAX_KEYS = number("MAX_KEYS", 100_000)
NOISE_MS = float(number("NOISE_MS", 5))
SLACK_MIB = number("SLACK_MIB", 24)
CALM_SECONDS = 8
# Connections of the flood, and requests that it sends on one at once: few, because whoever shares the
# worker has to wait for them.
WORKERS, BATCH = 16, 8
OTHERS = [f"other{index}" for index in range(20)]

# Each key of the flood counts for a minute, so that the table is full of them; the others use up two
# thirds of their burst.
LIMIT = f"key: 'header:x-key', limit: 60/h, burst: 1000, max_keys: {MAX_KEYS}"
# Name, policy, bytes for a key as docs/configuration.md has them. A shared one counts by itself in
# the table of `scope: node`, too, when Redis is away.
SCOPES = [
    ("node", f"{LIMIT}, scope: node", 24),
    ("fast", f"{LIMIT}, scope: shared, mode: fast", 424),
]


async def flood(port, path):
    """Each request with a key that was never there before: how many were answered by neither 200 nor
    429, and the rate that was reached."""
    bad = 0
    begin = time.monotonic()

    async def work(worker):
        nonlocal bad
        pipe = await Pipe.to(port)
        for first in range(worker * BATCH, FLOOD, WORKERS * BATCH):
            ahead = first / FLOOD * SECONDS - (time.monotonic() - begin)
            if ahead > 0:
                await asyncio.sleep(ahead)
            batch = range(first, min(first + BATCH, FLOOD))
            statuses = await pipe.ask([request(path, f"new{key}") for key in batch])
            # Keys that come when the table is full may be limited together.
            bad += sum(status not in (200, 429) for status in statuses)
        pipe.close()

    await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
    return bad, FLOOD / (time.monotonic() - begin)


def measure(gateway, path):
    """The others by themselves, then beside the flood, which has a process of its own."""
    calm = asyncio.run(probe(gateway.port, path, OTHERS, CALM_SECONDS, RATE))
    before = gateway.rss_mib()
    with ProcessPoolExecutor(1) as process:
        flooding = process.submit(run_flood, gateway.port, path)
        beside = asyncio.run(probe(gateway.port, path, OTHERS, SECONDS, RATE))
        return calm, before, flooding.result(), beside


def run_flood(port, path):
    """The flood, for a process of its own."""
    return asyncio.run(flood(port, path))


def main():
    good = True
    print(f"{FLOOD} keys in {SECONDS} s, max_keys {MAX_KEYS}")
    print("scope    keys/s  MiB before   after   grown   bound  p99 ms undisturbed  beside  limited  failed")
    with Rig() as rig:
        redis = rig.redis()
        for scope, policy, each in SCOPES:
            if sys.argv[1:] and scope not in sys.argv[1:]:
                continue
            gateway = rig.gateway({scope: policy}, redis_port=redis.port, threads=2)
            calm, before, (bad, reached), beside = measure(gateway, scope)
            after = gateway.rss_mib()
            rig.stop(gateway)
            usual, p99 = (percentile([one[1] for one in those], 0.99) for those in (calm, beside))
            limited = sum(status == 429 for status, *_ in calm + beside)
            bad += sum(status not in (200, 429) for status, *_ in calm + beside)
            bound = each * MAX_KEYS / 2**20
            wrong = []
            if after - before > bound + SLACK_MIB:
                wrong.append("memory")
            if bad or limited:
                wrong.append("failed")
            if p99 > max(2 * usual, NOISE_MS):
                wrong.append("slow")
            good &= not wrong
            print(f"{scope:7} {reached:7.0f} {before:11.1f} {after:7.1f} {after - before:7.1f} {bound:7.1f} "
                  f"{usual:19.2f} {p99:7.2f} {limited:8} {bad:7}  {', '.join(wrong) or 'ok'}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
