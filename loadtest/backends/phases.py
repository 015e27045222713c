"""What happens to the backends: each phase is one kind of trouble, from a calm start to the recovery."""

import time
from dataclasses import dataclass
from typing import Callable

from backends import proxies, server

# Before the trouble begins; the first second of it warms up and is not measured.
SETTLE, WARM_UP = 4.0, 1.0
# Within which a proxy is to have got over a fault.
GRACE = 2.0
# Between the answer of the name server and the end of a backend that it does not name any more: a TTL,
# the interval of a resolver and the requests under way.
FAREWELL = 5.0
# What a restart takes in which nobody listens.
RESTART = 0.5
LEFT_BY_SCALING = 2


def refused_connections():
    """Attempts to connect that were refused since this network came up (RFC 4022, tcpAttemptFails)."""
    with open("/proc/net/snmp", encoding="ascii") as lines:
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("AttemptFails")])


class Stage:
    """The backends, and the clock of the phase."""

    def __init__(self, backends, dns, begin, seconds):
        self.backends, self.dns, self.begin, self.seconds = backends, dns, begin, seconds
        self.fault_at = self.mended_at = None
        self.mended = []
        self.at_begin = self.counted()
        self.at_fault = self.at_grace = self.at_mend = None

    def fault(self):
        """The trouble begins now."""
        self.fault_at, self.at_fault = time.monotonic(), self.counted()

    def grace(self):
        """What was to be noticed is noticed."""
        self.wait(GRACE)
        self.at_grace = self.counted()

    def mend(self, *mended):
        """It ends now, and these come back."""
        self.mended_at, self.at_mend = time.monotonic(), self.counted()
        self.mended = [str(backend.index) for backend in mended]

    def counted(self):
        """Requests and connections that reached backends, and connections that nobody took."""
        return (sum(backend.requests for backend in self.backends),
                sum(backend.connections for backend in self.backends), refused_connections())

    def sleep_until(self, moment):
        time.sleep(max(0, moment - time.monotonic()))

    def wait(self, seconds):
        """Until so long after the beginning of the trouble."""
        self.sleep_until(self.fault_at + seconds)


def killed(stage):
    victim = stage.backends[0]
    victim.kill()
    stage.wait(stage.seconds)
    stage.mend(victim)
    victim.start()


def frozen(stage):
    victim = stage.backends[0]
    victim.freeze()
    stage.wait(stage.seconds)
    stage.mend(victim)
    victim.thaw()


def behaving(state):
    """One of them does so for a while."""
    def play(stage):
        victim = stage.backends[0]
        victim.behave(state)
        stage.wait(stage.seconds)
        stage.mend(victim)
        victim.behave(server.GOOD)
    return play


def restarted(stage):
    for place, backend in enumerate(stage.backends):
        stage.wait(place * stage.seconds / len(stage.backends))
        backend.retire()
        time.sleep(RESTART)
        backend.start()


def scaled(stage):
    stay, go = stage.backends[:LEFT_BY_SCALING], stage.backends[LEFT_BY_SCALING:]
    stage.dns.publish([backend.address for backend in stay])
    stage.wait(FAREWELL)
    for backend in go:
        backend.retire()
    stage.wait(max(FAREWELL + 1, stage.seconds / 2))
    for backend in go:
        backend.start()
    stage.mend(*go)
    stage.dns.publish([backend.address for backend in stage.backends])
    stage.wait(stage.seconds)


def failed_over(stage):
    primary = stage.backends[:len(stage.backends) // 2]
    for backend in primary:
        backend.kill()
    stage.wait(stage.seconds)
    stage.mend(*primary)
    for backend in primary:
        backend.start()


def all_down(stage):
    first, *others = stage.backends
    for backend in stage.backends:
        backend.kill()
    stage.grace()
    stage.wait(stage.seconds)
    stage.mend(first)
    first.start()
    stage.wait(stage.seconds * 1.25)
    for backend in others:
        backend.start()


def all_unavailable(stage):
    for backend in stage.backends:
        backend.behave(server.UNAVAILABLE)
    stage.grace()
    stage.wait(stage.seconds)
    stage.mend(*stage.backends)
    for backend in stage.backends:
        backend.behave(server.GOOD)


@dataclass(frozen=True)
class Phase:
    """One kind of trouble and what is asked of the gateway in it."""

    name: str
    about: str
    play: Callable
    # The share of requests, from the beginning of the trouble to the end of the phase, that must succeed.
    bar: float = 0.999
    variant: str = proxies.LISTED
    # Trouble that nobody should notice at all, not even at first.
    gentle: bool = False
    total: bool = False

    def length(self, seconds):
        """From the beginning of the trouble to the end of the phase."""
        return seconds + max(6.0, seconds / 2)


ALL = [
    Phase("calm", "nothing happens", lambda stage: None, bar=0.9999, gentle=True),
    Phase("killed", "one is killed, and started again", killed),
    Phase("frozen", "one is stopped (SIGSTOP), and continued", frozen),
    Phase("slow", "one takes 2 s for each answer", behaving(server.SLOW)),
    Phase("errors", "one answers 30 % with 500", behaving(server.ERRORS)),
    Phase("resets", "one resets each connection in the middle of the body", behaving(server.RESETS)),
    Phase("restart", "all are restarted, one after the other", restarted, bar=0.9999, gentle=True),
    Phase("scale", "6 become 2 and 6 again in DNS", scaled, bar=0.9999, variant=proxies.NAMED, gentle=True),
    Phase("failover", "3 are killed, 3 of another group are there", failed_over, bar=0.9999,
          variant=proxies.GROUPED),
    Phase("down", "all are killed; one comes back, then the others", all_down, total=True),
    Phase("outage", "all answer 503, and the proxy is told to go on asking them", all_unavailable,
          variant=proxies.TRUSTED, total=True),
]
