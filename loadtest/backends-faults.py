#!/usr/bin/env python3
"""What do clients see of backends that are killed, frozen, slow, broken, restarted, or gone?

Six backends answer a constant open-loop load through a proxy, while one thing after another happens to
them. Prints by phase what share of the requests was answered rightly and how late, for the gateway and
beside it for HAProxy and nginx. Exits with 1 when the gateway misses a bar. See loadtest/README.md.
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time

from backends import client, dns, phases, proxies, report, server

INSIDE = "BACKENDS_FAULTS_INSIDE"
BACKENDS = 6
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", action="append", choices=[proxy.name for proxy in proxies.ALL],
                        help="only this proxy; can be repeated")
    parser.add_argument("--phase", action="append", choices=[phase.name for phase in phases.ALL],
                        help="only this phase; can be repeated")
    parser.add_argument("--rate", type=int, default=400, help="requests a second (400)")
    parser.add_argument("--seconds", type=float, default=20, help="how long a fault lasts (20)")
    parser.add_argument("--quick", action="store_true", help="faults of 8 seconds; the bars are harder to reach")
    parser.add_argument("--keep", action="store_true", help="keep the folder with configurations and logs")
    parser.add_argument("--print-config", action="store_true", help="print the configuration for each phase")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    given = parser.parse_args()
    if given.quick:
        given.seconds = 8
    if given.rate < 10 or given.seconds < 8:
        parser.error("--rate is at least 10 and --seconds at least 8, or the figures say nothing")
    return given


def enter_own_network():
    """Begins again in a network and a family of processes of its own, where that is allowed: what the
    kernel counts there is of this script, and nothing outlives it."""
    if os.environ.get(INSIDE) or not shutil.which("unshare"):
        return
    environment = {**os.environ, INSIDE: "1"}
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        command.append("--map-root-user")
    if os.spawnvp(os.P_WAIT, command[0], [*command, "true"]) == 0:
        os.execvpe(command[0], [*command, sys.executable, "-B", *sys.argv], environment)
    print("no network of its own: what is counted of refused connections is of the whole machine")


def bring_loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


class Rig:
    """Everything that runs beside the proxy; ends with the block."""

    def __init__(self, given):
        self.given = given

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="gateway-backends-")
        self.port = proxies.free_port()
        self.backends = [server.Backend(index, self.port) for index in range(1, BACKENDS + 1)]
        self.spare = server.Backend(BACKENDS + 1, self.port)
        self.dns = dns.Dns("127.0.0.1", proxies.free_port())
        self.spare.start()
        self.proxy = self.load = None
        return self

    def run(self, proxy, phase):
        """One phase with a proxy of its own."""
        for backend in self.backends:
            backend.kill()
            backend.behave(server.GOOD)
            backend.start()
        self.dns.publish([backend.address for backend in self.backends])
        resolver = f"{self.dns.address}:{self.dns.port}"
        site = proxies.Site(self.backends, phase.variant, resolver, self.folder, self.port)
        self.proxy = proxy(site)
        try:
            if self.given.print_config:
                print(self.proxy.config())
            return self.play(phase)
        finally:
            self.proxy.stop()

    def play(self, phase):
        seconds = phases.SETTLE + phase.length(self.given.seconds)
        begin = time.monotonic() + 0.5
        self.load = client.Running(("127.0.0.1", self.proxy.port), (self.spare.address, self.port),
                                   self.given.rate, begin, seconds)
        stage = phases.Stage(self.backends, self.dns, begin, self.given.seconds)
        stage.sleep_until(begin + phases.SETTLE)
        stage.fault()
        phase.play(stage)
        results, noise = self.load.results(seconds + client.PATIENCE + 20)
        return report.Outcome(phase, stage, results, noise)

    def __exit__(self, *_):
        for one in [self.load, self.dns, self.spare, *self.backends]:
            if one:
                one.kill()
        if self.proxy:
            self.proxy.stop()
        if self.given.keep:
            print(f"configurations and logs: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def chosen(given):
    """The proxies to be measured; those that are not installed are left out."""
    wanted = [proxy for proxy in proxies.ALL if not given.only or proxy.name in given.only]
    missing = [proxy.name for proxy in wanted if not proxy.program()]
    if proxies.Gateway.name in missing:
        raise SystemExit("no gateway: run `make build`, or set GATEWAY_BIN")
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
    return [proxy for proxy in wanted if proxy.program()]


def main():
    given = arguments()
    enter_own_network()
    if os.environ.get(INSIDE):
        bring_loopback_up()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    table = report.Table(given)
    with Rig(given) as rig:
        for proxy in chosen(given):
            for phase in phases.ALL:
                if given.phase and phase.name not in given.phase:
                    continue
                if phase.variant == proxies.NAMED and not proxy.finds_by_dns():
                    continue
                table.add(proxy, rig.run(proxy, phase))
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
