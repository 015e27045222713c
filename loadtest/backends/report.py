"""What the phases came to: a line each as they end, a table in Markdown, and whether the bars were reached."""

import collections
import datetime
import os

from backends import phases, proxies

BEGIN, END = "<!-- backends: begin -->", "<!-- backends: end -->"
DOCUMENT = os.path.join(proxies.ROOT, "docs", "performance.md")
# A p99 has recovered when it is at most twice what it was, or so much above twice that of requests around
# the proxy at the same time: a machine that is busy with other things does not decide.
NOISE_MS = 20.0
# With every backend down: the figure, and how long after the first one is back all is well. A
# breaker of 2 s with a tenth of jitter, a probe a second with a tenth of jitter that has to be good twice,
# and a second for the start.
REFUSED_MS, BACK_SECONDS = 5.0, 5.0
# Connections to dead backends a second that are no hammering: a probe a second each, and as much for
# probing requests.
KNOCKS = 12.0
# The budget: a share of the requests, a few a second, and what may be saved up.
BUDGET, FREE_A_SECOND, SAVED = 0.2, 3, 100
UNAVAILABLE = "503"


def percentile(values, share):
    """The smallest value that so great a share of them is not above."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def p99(results):
    return percentile([one.millis for one in results], 0.99)


def between(results, begin, end):
    return [one for one in results if begin <= one.due < end]


class Outcome:
    """One phase of one proxy."""

    def __init__(self, phase, stage, results, noise):
        self.phase, self.stage = phase, stage
        self.counted, self.sent = stage.counted(), len(results)
        fault, end = stage.fault_at, float("inf")
        self.results = between(results, fault, end)
        self.before = between(results, stage.begin + phases.WARM_UP, fault)
        self.first = between(results, fault, fault + phases.GRACE)
        self.later = self.results if phase.gentle else between(results, fault + phases.GRACE, end)
        self.noise = p99(noise)
        self.failures = [one for one in self.results if not one.good]

    @property
    def success(self):
        return 1 - len(self.failures) / len(self.results)

    @property
    def attempts(self):
        """Requests that reached backends for each of a client."""
        return (self.counted[0] - self.stage.at_fault[0]) / len(self.results)

    @property
    def back(self):
        """How long after the end of the trouble one of those that had it answers, in seconds."""
        answers = [one.due + one.millis / 1000 for one in self.results
                   if one.backend in self.stage.mended and one.due > self.stage.mended_at]
        return min(answers) - self.stage.mended_at if answers else None

    def outcomes(self):
        """What failed, most frequent first."""
        return collections.Counter(f"{one.kind} {one.outcome}" for one in self.failures).most_common()

    def shortcomings(self):
        """The bars that were missed."""
        if self.phase.total:
            return total_shortcomings(self)
        missed = []
        if self.success < self.phase.bar:
            missed.append(f"success below {self.phase.bar:.2%}")
        usual, later = p99(self.before), p99(self.later)
        if later > max(2 * usual, 2 * self.noise + NOISE_MS):
            missed.append(f"p99 is still {later:.0f} ms after {phases.GRACE:.0f} s")
        if self.stage.mended and self.back is None:
            missed.append("never used again")
        return missed


def knocks(then, now):
    """Connections that backends took or refused between two counts."""
    return now[1] + now[2] - then[1] - then[2]


class Down:
    """The figures of a phase in which no backend is left."""

    def __init__(self, outcome):
        stage, self.outcome = outcome.stage, outcome
        self.seconds = stage.mended_at - stage.fault_at
        during = between(outcome.results, stage.fault_at + phases.GRACE, stage.mended_at)
        self.refused = [one for one in during if one.outcome == UNAVAILABLE]
        self.refused_share = len(self.refused) / max(1, len(during))
        self.p99 = p99(during)
        self.requests = len(between(outcome.results, stage.fault_at, stage.mended_at))
        self.attempts = stage.at_mend[0] - stage.at_fault[0]
        if outcome.phase.variant == proxies.TRUSTED:
            # All retries are of this time. Of the whole phase, so that what is late is not counted wrongly.
            retries = outcome.counted[0] - stage.at_begin[0] - outcome.sent
            self.attempts = self.requests + retries
        self.at_first = knocks(stage.at_fault, stage.at_grace)
        self.knocks = knocks(stage.at_grace, stage.at_mend) / (self.seconds - phases.GRACE)
        after = between(outcome.results, stage.mended_at, float("inf"))
        bad = [one.due for one in after if not one.good]
        good = [one.due for one in after if one.good]
        self.first_good = min(good) - stage.mended_at if good else None
        self.well = max(bad) - stage.mended_at if bad else 0.0


def total_shortcomings(outcome):
    down, missed = Down(outcome), []
    if down.first_good is None or down.well > BACK_SECONDS:
        missed.append(f"not well {BACK_SECONDS:.0f} s after the first was back")
    if outcome.phase.variant == proxies.TRUSTED:
        # What is free is counted by whole seconds, of which one more is touched than go by.
        free = FREE_A_SECOND * (down.seconds + 1)
        most = (1 + BUDGET) * down.requests + free + SAVED
        if down.attempts > most:
            missed.append(f"{down.attempts} attempts, at most {most:.0f} are within the budget")
        return missed
    if down.p99 > max(REFUSED_MS, outcome.noise + REFUSED_MS):
        missed.append(f"p99 of refusals above {REFUSED_MS:.0f} ms")
    if down.refused_share < 1:
        missed.append("not only 503")
    if down.knocks > KNOCKS:
        missed.append(f"{down.knocks:.0f} connections a second to dead backends")
    return missed


def seconds(value):
    return "never" if value is None else f"{value:.1f}"


COLUMNS = ["phase", "proxy", "requests", "success %", "failed", "p50 ms", "p99 before", "p99 first 2 s",
           "p99 later", "around it", "attempts/request", "back after s"]
TOTAL_COLUMNS = ["phase", "proxy", "requests", "503 %", "p99 ms", "attempts/request", "connections first 2 s",
                 "a second later", "first answer after s", "well after s"]


def cells(proxy, outcome):
    """A row of the table."""
    back = seconds(outcome.back) if outcome.stage.mended else ""
    return [outcome.phase.name, proxy, f"{len(outcome.results)}", f"{outcome.success * 100:.3f}",
            f"{len(outcome.failures)}", f"{percentile([one.millis for one in outcome.results], 0.5):.1f}",
            f"{p99(outcome.before):.1f}", f"{p99(outcome.first):.1f}", f"{p99(outcome.later):.1f}",
            f"{outcome.noise:.1f}", f"{outcome.attempts:.3f}", back]


def total_cells(proxy, outcome):
    """A row of the table of those in which no backend is left."""
    down = Down(outcome)
    return [outcome.phase.name, proxy, f"{down.requests}", f"{down.refused_share * 100:.1f}",
            f"{down.p99:.1f}", f"{down.attempts / max(1, down.requests):.3f}", f"{down.at_first}",
            f"{down.knocks:.1f}", seconds(down.first_good), seconds(down.well)]


def markdown(columns, rows):
    lines = [columns, ["---", "---", *["---:"] * (len(columns) - 2)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


class Table:
    """All rows so far."""

    def __init__(self, given):
        self.given, self.rows, self.total_rows, self.missed = given, [], [], []

    def add(self, proxy, outcome):
        total = outcome.phase.total
        titles = TOTAL_COLUMNS if total else COLUMNS
        row = total_cells(proxy.name, outcome) if total else cells(proxy.name, outcome)
        (self.total_rows if total else self.rows).append(row)
        print(", ".join(f"{title} {value}" for title, value in zip(titles, row) if value), flush=True)
        for what, count in ([] if total else outcome.outcomes()[:6]):
            print(f"    {count} x {what}")
        for missed in outcome.shortcomings():
            print(f"    missed: {missed}")
            if proxy is proxies.Gateway:
                self.missed.append(f"{outcome.phase.name}: {missed}")

    def finish(self):
        """Prints the tables; the exit code."""
        text = self.text()
        print("\n" + text)
        if self.given.write:
            write(text)
        for missed in self.missed:
            print(f"the gateway missed a bar: {missed}")
        return 1 if self.missed else 0

    def text(self):
        order = [phase.name for phase in phases.ALL]
        parts = [f"Measured on {datetime.date.today().isoformat()}: {self.given.rate} requests a second, "
                 f"faults of {self.given.seconds:g} s.\n"]
        for columns, rows in ((COLUMNS, self.rows), (TOTAL_COLUMNS, self.total_rows)):
            if rows:
                parts.append(markdown(columns, sorted(rows, key=lambda row: order.index(row[0]))))
        return "\n".join(parts)


def write(text):
    """Puts the tables between their marks in the document."""
    with open(DOCUMENT, encoding="utf-8") as file:
        old = file.read()
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{DOCUMENT} has no lines '{BEGIN}' and '{END}' to write between")
    before, _, rest = old.partition(BEGIN)
    with open(DOCUMENT, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
