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
# Turns that make a span of about a second, in which threads that work now and then have done so often.
SPAN = 20


def compare(process, aside, paths, keys, port, core, settings):
    """Microseconds of processor time for a request to the first path, how much more one to the second takes, both
    without the threads `aside`, and the report of the whole run."""
    marks, counts, report = take_turns(process, aside, paths, keys, port, core, settings)
    costs = {
        turn: (marks[turn + 1][0] - marks[turn][0]) / counts[turn] * 1e6
        for turn in marks
        if turn + 1 in marks and counts.get(turn)
    }
    pairs = []
    for turn in costs:
        if turn % 2 == 0 and turn + 1 in costs:
            pair = (costs[turn], costs[turn + 1])
            # As in turns.lua: of turns 0 to 3 the first and last are for the first path.
            pairs.append(pair if turn % 4 == 0 else pair[::-1])
    quiet = quietest(pairs, sum, settings.seconds / TURN / 2)
    return mean(first for first, _ in quiet), middle([second - first for first, second in quiet]), report


def beside(process, aside, path, keys, port, core, settings):
    """Microseconds of processor time that the threads `aside` take for a request, when all are for this path."""
    marks, counts, _ = take_turns(process, aside, [path, path], keys, port, core, settings)
    spans = []
    for first in sorted(marks):
        turns = range(first, first + SPAN)
        requests = sum(counts.get(turn, 0) for turn in turns)
        if first % SPAN == 0 and first + SPAN in marks and requests:
            spent_in_it = [after - before for before, after in zip(marks[first], marks[first + SPAN])]
            spans.append([seconds / requests * 1e6 for seconds in spent_in_it])
    return mean(own for _, own in quietest(spans, sum, settings.seconds / TURN / SPAN))


def take_turns(process, aside, paths, keys, port, core, settings):
    """Runs the load. Returns what the other threads and those `aside` had used when each turn began, the requests of
    each turn, and the report."""
    marks, over = {}, threading.Event()
    reader = threading.Thread(target=read, args=(process.clocks(), aside, marks, over))
    reader.start()
    try:
        counts, report = load.wrk_turns(paths, keys, TURN, port, core, settings)
    finally:
        over.set()
        reader.join()
    return marks, counts, report


def read(clocks, aside, marks, over):
    """Notes the processor time at the beginning of each turn."""
    while True:
        turn = int(time.monotonic() / TURN) + 1
        if over.wait(turn * TURN + LAG - time.monotonic()):
            return
        own = spent(aside)
        others = sum(time.clock_gettime(clock) for clock in clocks) - own
        if time.monotonic() < turn * TURN + LATE:
            marks[turn] = (others, own)


def quietest(taken, total, expected):
    """Those that took the least, if enough were read in time."""
    if len(taken) < expected / 2:
        raise RuntimeError(f"{len(taken)} of {expected:.0f} turns were read in time: the machine is too busy")
    return sorted(taken, key=total)[: max(int(len(taken) * QUIET), 1)]


def middle(values):
    """The mean without the smallest and the greatest."""
    cut = int(len(values) * TRIMMED)
    kept = sorted(values)[cut : len(values) - cut]
    return mean(kept)
