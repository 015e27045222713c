#!/usr/bin/env python3
"""Do rate limits mean their number? Admitted against allowed, for every kind of traffic and every mode.

Each row is one kind of traffic for one or 10 000 keys, sent to one or three gateways, which count by
themselves (node) or together in a Redis (precise, fast). `allowed` is what an exact bucket for each key,
fed with the times of the same requests, would have let through. `most` is what no key may exceed:
`burst + limit × t` from its first request to its last answer, for fast the stated 4 % of the burst more.

Fails when a key got more than `most`, when node or precise let less than 99 % of `allowed` through, or
when a request was answered by anything but 200 and 429. Takes about ten minutes. Parameters from the
environment: GATEWAY_BIN, SECONDS_ONE (5) and SECONDS_MANY (20) for a row of one and of many keys, MANY
(10000). Arguments choose rows by words: `node`, `precise`, `fast`, `1`, `3` (gateways), `one`, `many` (keys), `steady`,
`bursty`, `boundary`, `overload`.
"""

import asyncio
import collections
import math
import sys
import time

from ratelimit_rig import PIPELINE, Pipe, Rig, number, request

MANY = number("MANY", 10_000)
WORKERS = 16
OVERLOAD = 50
# Stated in docs/ratelimit-shared.md: what instances let through together on credit.
CREDIT = 0.04


class Keys:
    """So many keys with their limit: `limit` in each `period` seconds."""

    def __init__(self, name, count, limit, period, burst, seconds):
        self.name, self.count, self.seconds = name, count, seconds
        self.limit, self.period, self.burst = limit, period, burst
        self.rate = limit / period

    def policy(self, scope):
        return f"key: 'header:x-key', limit: {self.limit}/{self.period}s, burst: {self.burst}, {scope}"


KEYS = [
    Keys("one", 1, 100, 1, 100, number("SECONDS_ONE", 5)),
    # A slow limit, so that 50 times as much from all of them is what a small machine can send.
    Keys("many", MANY, 1, 10, 2, number("SECONDS_MANY", 20)),
]

SCOPES = {
    "node": "scope: node",
    "precise": "scope: shared, mode: precise",
    "fast": "scope: shared, mode: fast",
}


def evenly(keys, rate):
    """Each key at this rate, the keys spread over the time between two of its requests."""
    for turn in range(int(rate * keys.count * keys.seconds)):
        yield turn / (rate * keys.count), turn % keys.count


def steady(keys):
    """Just what the limit is."""
    yield from evenly(keys, keys.rate)


def overload(keys):
    """Fifty times the limit, evenly."""
    yield from evenly(keys, OVERLOAD * keys.rate)


def bursty(keys):
    """Three times the burst at once, again and again, before the bucket is full. Its time is no multiple
    of what a unit takes to come back, so that a microsecond does not decide."""
    pause = 0.535 * keys.burst / keys.rate
    for turn in range(int(keys.seconds / pause) + 1):
        for key in range(keys.count):
            for _ in range(3 * keys.burst):
                yield pause * (turn + key / keys.count), key


def boundary(keys):
    """A whole burst just before each boundary of the limit's period on the clock, and one just after
    it: who counts by the clock lets twice the burst through."""
    spread = keys.period / 20
    wait = keys.period - time.time() % keys.period
    # The first boundary for which there is time before it.
    first = wait if wait > 2 * spread else wait + keys.period
    edge = first
    while edge < first + keys.seconds:
        for begin in (edge - spread, edge + 0.0005 * keys.period):
            for key in range(keys.count):
                for _ in range(keys.burst):
                    yield begin + 0.95 * spread * key / keys.count, key
        edge += keys.period


TRAFFIC = [steady, bursty, boundary, overload]


class Record:
    """What was sent and what came of it."""

    def __init__(self):
        # (sent, answered, key, status)
        self.requests = []

    def failed(self):
        return sum(status not in (200, 429) for *_, status in self.requests)

    def admitted(self):
        """Requests by key."""
        return collections.Counter(key for *_, key, status in self.requests if status == 200)

    def spans(self):
        """The first request's time and the last answer's, by key."""
        spans = {}
        for sent, answered, key, _ in self.requests:
            first, last = spans.get(key, (sent, answered))
            spans[key] = (min(first, sent), max(last, answered))
        return spans


async def send(plan, gateways, path, prefix, instance_of):
    """Sends each request when it is due, to the gateways in turn, over connections that stay open."""
    queues = [asyncio.Queue() for _ in range(WORKERS)]
    record = Record()

    async def work(index, queue):
        # Opened when there is something to send: the gateway closes a connection that stays silent.
        pipes, turn = [], index
        while (key := await queue.get()) is not None:
            pipes = pipes or [await Pipe.to(gateway.port) for gateway in gateways]
            keys = [key]
            while len(keys) < PIPELINE and not queue.empty():
                key = queue.get_nowait()
                if key is None:
                    # The end, for when these are answered.
                    queue.put_nowait(None)
                    break
                keys.append(key)
            at, turn = turn % len(pipes), turn + 1
            requests = [request(path, f"{prefix}-{key}") for key in keys]
            sent = time.monotonic()
            statuses = await pipes[at].ask(requests)
            answered = time.monotonic()
            for key, status in zip(keys, statuses):
                record.requests.append((sent, answered, instance_of(at, key), status))
        for pipe in pipes:
            pipe.close()

    workers = [asyncio.create_task(work(*pair)) for pair in enumerate(queues)]
    begin = time.monotonic()
    for turn, (due, key) in enumerate(plan):
        ahead = due - (time.monotonic() - begin)
        if ahead > 0.002:
            await asyncio.sleep(ahead)
        elif turn % 1000 == 0:
            # When it is late, answers must be read all the same.
            await asyncio.sleep(0)
        queues[turn % WORKERS].put_nowait(key)
    for queue in queues:
        queue.put_nowait(None)
    await asyncio.gather(*workers)
    return record


def allowed(record, keys):
    """What exact buckets would have let through at the times at which the requests were sent."""
    full, total = {}, 0
    interval = 1 / keys.rate
    depth = keys.burst * interval + 1e-9
    for sent, _, key, _ in sorted(record.requests, key=lambda one: one[0]):
        tat = max(full.get(key, 0), sent) + interval
        if tat - sent <= depth:
            full[key], total = tat, total + 1
    return total


def excess(record, keys, credit):
    """By how much the worst key exceeds what it may have at most, and what all may have."""
    admitted, worst, total = record.admitted(), -math.inf, 0
    for key, (first, last) in record.spans().items():
        most = math.floor(keys.burst * (1 + credit) + keys.rate * (last - first) + 1e-6)
        worst = max(worst, admitted[key] - most)
        total += most
    return worst, total


def row(mode, gateways, keys, traffic):
    """Measures one row; whether its bars are held."""
    # A node counts by itself: what it lets through is its own key.
    apart = mode == "node"
    instance_of = (lambda at, key: (at, key)) if apart else (lambda _at, key: key)
    path, prefix = f"{mode}-{keys.name}", f"{traffic.__name__}-{len(gateways)}"
    record = asyncio.run(send(traffic(keys), gateways, path, prefix, instance_of))
    exact, admitted = allowed(record, keys), sum(record.admitted().values())
    over, most = excess(record, keys, CREDIT if mode == "fast" else 0)
    seconds = max(answered for _, answered, *_ in record.requests) - record.requests[0][0]
    offered = len(record.requests) / max(seconds, 1e-9) / (keys.rate * keys.count)
    wrong = []
    if over > 0:
        wrong.append("too much")
    if mode != "fast" and admitted < 0.99 * exact:
        wrong.append("too little")
    if record.failed():
        wrong.append("failed")
    print(f"{mode:8} {len(gateways):8} {keys.count:6} {traffic.__name__:9} {len(record.requests):8} "
          f"{offered:7.1f} {exact:8} {admitted:8} {100 * admitted / exact:7.2f} {most:8} {over:6} "
          f"{record.failed():6}  {', '.join(wrong) or 'ok'}", flush=True)
    return not wrong


def chosen(words):
    """The rows that the arguments ask for; all of them when there are none."""
    groups = [list(SCOPES), ["1", "3"], [keys.name for keys in KEYS], [one.__name__ for one in TRAFFIC]]
    unknown = set(words) - {word for group in groups for word in group}
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}")
    picked = [[word for word in group if word in words] or group for group in groups]
    scopes, counts, names, traffics = picked
    for count in counts:
        for mode in scopes:
            for keys in KEYS:
                for traffic in TRAFFIC:
                    if keys.name in names and traffic.__name__ in traffics:
                        yield mode, int(count), keys, traffic


def main():
    rows = list(chosen(sys.argv[1:]))
    policies = {f"{mode}-{keys.name}": keys.policy(scope)
                for mode, scope in SCOPES.items() for keys in KEYS}
    # Whether Redis is fast enough is the other script's question; whoever waits longer here fails.
    settings = "timeout: 1s\n  failure_mode: fail_closed"
    print("mode     gateways   keys traffic   requests × limit  allowed admitted       %     most   over failed")
    good = True
    with Rig() as rig:
        redis = rig.redis()
        gateways = []
        for mode, count, keys, traffic in rows:
            while len(gateways) > count:
                rig.stop(gateways.pop())
            while len(gateways) < count:
                gateways.append(rig.gateway(policies, settings, redis.port))
                # For the instances to know of each other.
                time.sleep(2)
            good &= row(mode, gateways, keys, traffic)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
