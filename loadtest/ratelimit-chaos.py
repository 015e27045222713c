#!/usr/bin/env python3
"""Does a failing Redis hinder anybody? Every fault, for every failure mode and for precise and fast limits.

Clients that are far within their limits make requests at a constant rate while Redis is killed, started
again empty, paused, made slow by 200 ms, flushed, and restarted in place. A gateway for each failure mode has
a precise and a fast policy. As many requests go to a policy of `scope: node`: they feel the machine's
noise and nothing of Redis. Prints a table by fault, and fails when a request failed that the mode does
not call for, or when a p99 is more than 5 ms above both the undisturbed one and what the others
feel at the same time.

fail_closed calls for 503 with Retry-After while Redis is away, and for RECOVERY (2) seconds after. Nothing
else calls for anything but 200. Bounded: about two minutes. Parameters from the environment:
GATEWAY_BIN, RATE (requests a second of each kind, 100), PHASE (seconds of a phase, 6), RECOVERY,
TIMEOUT_MS (how long a request waits for Redis, 5).
"""

import asyncio
import multiprocessing
import sys
import time

from ratelimit_rig import Rig, free_port, number, percentile, probe

RATE = number("RATE", 100)
PHASE = number("PHASE", 6)
RECOVERY = number("RECOVERY", 2)
TIMEOUT_MS = number("TIMEOUT_MS", 5)
ABOVE_MS = 5
SLOW_SECONDS = 0.2
KEYS = [f"k{index}" for index in range(20)]

SETTINGS = f"timeout: {TIMEOUT_MS}ms\n  failure_mode: {{}}"
MODES = ["fail_local", "fail_open", "fail_closed"]
LIMIT = "key: 'header:x-key', limit: 10000/s"
POLICIES = {
    "precise": f"{LIMIT}, scope: shared, mode: precise",
    "fast": f"{LIMIT}, scope: shared, mode: fast",
    "node": LIMIT,
}


def relay(port, target, delay):
    """Carries connections to Redis, and its answers later by `delay` seconds; in a process of its own."""

    async def carry(reader, writer, late):
        loop, parts = asyncio.get_running_loop(), asyncio.Queue()

        async def read():
            while data := await reader.read(1 << 16):
                parts.put_nowait((loop.time() + (delay.value if late else 0), data))
            parts.put_nowait((0, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await parts.get()
                if not data:
                    break
                await asyncio.sleep(max(0, due - loop.time()))
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()

    async def serve(reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        ways = [asyncio.create_task(carry(reader, up_writer, False)),
                asyncio.create_task(carry(up_reader, writer, True))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        up_writer.close()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(run())


class Faults:
    """What is done to Redis, and how it is mended."""

    def __init__(self, redis, delay):
        self.redis, self.delay = redis, delay

    def restart(self):
        self.redis.kill()
        self.redis.start()

    def slow(self):
        self.delay.value = SLOW_SECONDS

    def quick(self):
        self.delay.value = 0.0

    def flush(self):
        self.redis.ask("FLUSHALL")

    def phases(self):
        """Name, what happens at the start of the phase, and whether Redis is away in it."""
        return [
            ("undisturbed", lambda: None, False),
            ("killed", self.redis.kill, True),
            ("started empty", self.redis.start, False),
            ("paused", self.redis.pause, True),
            ("goes on", self.redis.go_on, False),
            ("slow by 200 ms", self.slow, True),
            ("quick again", self.quick, False),
            ("flushed", self.flush, False),
            ("restarted", self.restart, False),
        ]


async def load(gateways):
    """Requests of each kind to each gateway; results by (failure mode, policy)."""
    kinds = [(mode, policy) for mode in gateways for policy in POLICIES]
    runs = [probe(gateways[mode].port, policy, KEYS, PHASE, RATE, 4) for mode, policy in kinds]
    return dict(zip(kinds, await asyncio.gather(*runs)))


def in_process(work, *arguments):
    """A coroutine's result, from a process of its own, so that this one can do harm meanwhile."""
    ours, theirs = multiprocessing.Pipe()

    def run():
        theirs.send(asyncio.run(work(*arguments)))

    child = multiprocessing.Process(target=run)
    child.start()
    return ours, child


def unexpected(results, mode, policy, away):
    """Requests that failed although nothing called for it."""
    closed = mode == "fail_closed" and policy != "node"

    def called_for(status, due):
        return status == 503 and closed and (away or due < RECOVERY)

    return sum(status != 200 and not called_for(status, due) for status, _, due in results)


def report(name, results, calm, away):
    """A line for each kind; whether all is as it should be."""
    good = True
    for (mode, policy), those in results.items():
        if policy == "node":
            continue
        p99 = percentile([latency for _, latency, _ in those], 0.99)
        others = percentile([latency for _, latency, _ in results[mode, "node"]], 0.99)
        usual = calm.setdefault((mode, policy), p99)
        bad = unexpected(those, mode, policy, away)
        refused = sum(status == 503 for status, *_ in those)
        wrong = []
        if bad or unexpected(results[mode, "node"], mode, "node", away):
            wrong.append("failed")
        if p99 > max(usual, others) + ABOVE_MS:
            wrong.append("slow")
        good &= not wrong
        print(f"{name:15} {mode:11} {policy:8} {len(those):8} {refused:6} {bad:6} "
              f"{percentile([one[1] for one in those], 0.5):7.2f} {p99:7.2f} {usual:7.2f} {others:7.2f}  "
              f"{', '.join(wrong) or 'ok'}", flush=True)
    return good


def main():
    delay = multiprocessing.Value("d", 0.0)
    good, calm = True, {}
    with Rig() as rig:
        redis = rig.redis()
        port = free_port()
        between = multiprocessing.Process(target=relay, args=(port, redis.port, delay), daemon=True)
        between.start()
        gateways = {mode: rig.gateway(POLICIES, SETTINGS.format(mode), port) for mode in MODES}
        # For the connections and for the first leases.
        time.sleep(2)
        print("Redis …         mode        policy   requests    503 failed  p50 ms  p99 ms   usual  others")
        for name, harm, away in Faults(redis, delay).phases():
            ours, child = in_process(load, gateways)
            # Into the load, which takes some time to begin.
            time.sleep(0.3)
            harm()
            results = ours.recv()
            child.join()
            good &= report(name, results, calm, away)
        between.kill()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
