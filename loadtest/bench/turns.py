"""Requests of two kinds by turns: what those of the second kind cost more than those of the first.

Some tenths of a microsecond are less than two runs of the same thing differ by on a shared machine, where
everything takes half as long again while a neighbour uses the same caches. So the turns are short, neighbouring
turns are compared, and of these pairs only the quietest count: those that took the least together.
"""

import threading
import time
from statistics import mean

import load
from process import spent

# Seconds. Long beside the requests that are under way when a turn begins, short beside what disturbs. Whole ticks of
# the kernel, by which the clocks of other processes go on, so that all turns are cut alike; and in no round
# relation to what programs do every second or tenth of one.
TURN = 0.052
# How long after a turn has begun the requests of the one before are answered, and what is too late to count. A
# proxy that needs longer has a few of one side's requests counted for the other, and looks a little too good.
LAG = 0.0015
LATE = 0.005
# This share of the pairs counts, and of their differences this share is left out on either side.
QUIET = 0.25
TRIMMED = 0.2


def compare(process, aside, paths, keys, port, core, settings):
    """Microseconds of processor time for a request to the first path, how much more one to the second takes, both
    without the threads `aside`, and the report of the whole run."""
    marks, over = {}, threading.Event()
    clocks = process.clocks()
    reader = threading.Thread(target=read, args=(clocks, aside, marks, over))
    reader.start()
    try:
        counts, report = load.wrk_turns(paths, keys, TURN, port, core, settings)
    finally:
        over.set()
        reader.join()
    costs = {
        turn: (marks[turn + 1] - marks[turn]) / counts[turn] * 1e6
        for turn in marks
        if turn + 1 in marks and counts.get(turn)
    }
    # As in turns.lua: of turns 0 to 3 the first and last are for the first path.
    pairs = []
    for turn in costs:
        if turn % 2 == 0 and turn + 1 in costs:
            pair = (costs[turn], costs[turn + 1])
            pairs.append(pair if turn % 4 == 0 else pair[::-1])
    if len(pairs) < settings.seconds / TURN / 4:
        raise RuntimeError(f"only {len(pairs)} pairs of turns were read in time: the machine is too busy")
    quiet = sorted(pairs, key=sum)[: int(len(pairs) * QUIET)]
    return mean(first for first, _ in quiet), middle([second - first for first, second in quiet]), report


def read(clocks, aside, marks, over):
    """Notes the processor time at the beginning of each turn."""
    while True:
        turn = int(time.monotonic() / TURN) + 1
        if over.wait(turn * TURN + LAG - time.monotonic()):
            return
        used = sum(time.clock_gettime(clock) for clock in clocks) - spent(aside)
        if time.monotonic() < turn * TURN + LATE:
            marks[turn] = used


def middle(values):
    """The mean without the smallest and the greatest."""
    cut = int(len(values) * TRIMMED)
    kept = sorted(values)[cut : len(values) - cut]
    return mean(kept)
