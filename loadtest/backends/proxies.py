"""The gateway, HAProxy and nginx, each configured as a careful operator would for the same backends.

The settings that are comparable are the same: two threads, least requests, connections kept on both
sides, a second for an answer, three retries on another backend for what may be repeated, a health check a
second, slow start.
"""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass

from backends import server

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
START_SECONDS = 20
STOP_SECONDS = 5

# How the backends are found, and whether the proxy may take them out.
LISTED, NAMED, GROUPED, TRUSTED = "listed", "named", "grouped", "trusted"


@dataclass
class Site:
    """What a proxy is to stand in front of."""

    backends: list
    variant: str
    resolver: str
    folder: str
    # A port that all backends share, each at an address of its own.
    backend_port: int

    @property
    def addresses(self):
        return [f"{backend.address}:{backend.port}" for backend in self.backends]

    def is_backup(self, place):
        """The second half, where there are groups."""
        return self.variant == GROUPED and place >= len(self.backends) // 2


def free_port():
    """A port that nobody listens on at any address."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class Proxy:
    """One proxy under test; ends with `stop`."""

    name = ""

    def __init__(self, site):
        self.site, self.port, self.admin = site, free_port(), free_port()
        self.file = os.path.join(site.folder, f"{self.name}.conf")
        with open(self.file, "w", encoding="utf-8") as out:
            out.write(self.config())
        self.log = os.path.join(site.folder, f"{self.name}.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment(), preexec_fn=server.die_with_parent)
        self.wait_until_ready()

    @staticmethod
    def environment():
        """Ours, without what a gateway would take for keys of its configuration."""
        return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}

    @classmethod
    def finds_by_dns(cls):
        """Whether it follows a name in DNS."""
        return True

    @staticmethod
    def program():
        """Its path, or nothing when it is not there."""
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def config(self):
        raise NotImplementedError

    def wait_until_ready(self):
        """Until some requests in a row are answered."""
        deadline, good = time.monotonic() + START_SECONDS, 0
        while good < 12:
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(self.log, encoding="utf-8", errors="replace") as log:
                    raise SystemExit(f"{self.name} did not start with {self.file}:\n{log.read()[-3000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/items/0", timeout=2) as answer:
                    good += answer.status == 200
            except OSError:
                time.sleep(0.1)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Gateway(Proxy):
    name = "gateway"

    CONFIG = """\
server: {{ threads: 2 }}
listeners: [{{ name: main, address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
access_log: {{ enabled: false }}
upstreams:
  app:
{upstream}
routes:
  - {{ upstream: app }}
"""

    SETTINGS = {
        "balance": "least_requests",
        "slow_start": "{ duration: 5s }",
        "timeouts": "{ connect: 500ms, first_byte: 1s, read: 5s }",
        "retries": "{ attempts: 3, on: [connect_failure, refused_stream, reset, timeout, 500, 502-504],"
                   " idempotency_key: true }",
        "circuit_breaker": "{ timeout: 2s }",
        "outlier": "{ base_ejection: 5s, max_ejection: 10s }",
        "health_check": "{ path: /health, interval: 1s, timeout: 1s, unhealthy_after: 2, healthy_after: 2 }",
    }
    # What keeps a backend or all of them from being asked.
    GUARDS_OFF = {
        "circuit_breaker": "{ enabled: false }",
        "outlier": "{ consecutive_failures: 0, failure_rate: 0%, slow_factor: 0 }",
    }

    @staticmethod
    def program():
        path = os.environ.get("GATEWAY_BIN", os.path.join(ROOT, "target/release/gateway"))
        return path if os.access(path, os.X_OK) else None

    def command(self):
        return [self.program(), "-c", self.file]

    @classmethod
    def knows(cls, key):
        """Whether it has such a key of the configuration: older ones can be measured as well."""
        schema = subprocess.run([cls.program(), "--print-schema"], stdout=subprocess.PIPE, check=True).stdout
        return f'"{key}":'.encode() in schema

    @classmethod
    def finds_by_dns(cls):
        return cls.knows("discovery")

    def config(self):
        settings = {**self.SETTINGS, **(self.GUARDS_OFF if self.site.variant == TRUSTED else {})}
        if not self.knows("slow_start"):
            settings["balance"] = "round_robin"
        if not self.knows("failure_rate") and self.site.variant == TRUSTED:
            settings["outlier"] = "{ consecutive_failures: 0 }"
        settings = {key: value for key, value in settings.items() if self.knows(key)}
        lines = [self.members(), *(f"{key}: {value}" for key, value in settings.items())]
        upstream = "\n".join(f"    {line}" for line in lines)
        return self.CONFIG.format(port=self.port, admin=self.admin, upstream=upstream)

    def members(self):
        """Who the backends are, or where that is told."""
        site = self.site
        if site.variant == NAMED:
            return ("discovery: { dns: { name: app.test, "
                    f'port: {site.backend_port}, resolvers: ["{site.resolver}"] }} }}')
        grouped = site.variant == GROUPED and self.knows("failover")
        return "backends:" + "".join(
            f'\n      - {{ address: "{address}"{f", priority: {int(site.is_backup(place))}" if grouped else ""} }}'
            for place, address in enumerate(site.addresses))


class Haproxy(Proxy):
    name = "haproxy"

    CONFIG = """\
global
    nbthread 2
    maxconn 4000
defaults
    mode http
    timeout connect 500ms
    timeout client 60s
    timeout server 1s
    timeout queue 1s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout check 1s
    http-reuse safe
{resolvers}frontend main
    bind 127.0.0.1:{port}
    use_backend once if {{ path_beg /events/ }}
    default_backend again
backend again
{common}    retry-on conn-failure empty-response response-timeout junk-response 500 502 503 504
{servers}backend once
{common}    retry-on conn-failure
{servers}"""

    COMMON = """\
    balance leastconn
    retries 3
    option redispatch 1
    option allbackups
    option httpchk
    http-check send meth GET uri /health ver HTTP/1.1 hdr Host app.test
    default-server {checks}
"""

    CHECKS = "check inter 1s fall 2 rise 2 observe layer7 error-limit 5 on-error mark-down slowstart 5s"

    RESOLVERS = """\
resolvers local
    nameserver one {resolver}
    resolve_retries 3
    timeout resolve 1s
    timeout retry 1s
    hold valid 1s
"""

    @staticmethod
    def program():
        return shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")

    def command(self):
        return [self.program(), "-db", "-f", self.file]

    def config(self):
        site, resolvers = self.site, ""
        checks = "" if site.variant == TRUSTED else self.CHECKS
        if site.variant == NAMED:
            resolvers = self.RESOLVERS.format(resolver=site.resolver)
            servers = (f"    server-template app {len(site.backends)} app.test:{site.backend_port} "
                       "resolvers local init-addr none\n")
        else:
            servers = "".join(
                f"    server app{place} {address}{' backup' if site.is_backup(place) else ''}\n"
                for place, address in enumerate(site.addresses))
        common = self.COMMON.format(checks=checks).replace("    default-server \n", "")
        return self.CONFIG.format(port=self.port, resolvers=resolvers, common=common, servers=servers)


class Nginx(Proxy):
    name = "nginx"

    CONFIG = """\
daemon off;
{user}worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err warn;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 60s;
    upstream app {{
        zone app 128k;
        least_conn;
{servers}        keepalive 32;
        keepalive_requests 1000000000;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_connect_timeout 500ms;
    proxy_read_timeout 1s;
    proxy_next_upstream_tries 4;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /items/ {{
            proxy_pass http://app;
            proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 http_504;
        }}
        location /orders/ {{
            proxy_pass http://app;
            proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 http_504 non_idempotent;
        }}
        location /events/ {{
            proxy_pass http://app;
            proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 http_504;
        }}
    }}
}}
"""

    @classmethod
    def finds_by_dns(cls):
        return False

    @staticmethod
    def program():
        return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")

    def command(self):
        return [self.program(), "-p", self.site.folder, "-c", self.file, "-e", f"{self.site.folder}/nginx.err"]

    def config(self):
        site = self.site
        fails = "max_fails=0" if site.variant == TRUSTED else "max_fails=5 fail_timeout=5s"
        servers = "".join(
            f"        server {address} {fails}{' backup' if site.is_backup(place) else ''};\n"
            for place, address in enumerate(site.addresses))
        user = "user root root;\n" if os.geteuid() == 0 else ""
        return self.CONFIG.format(port=self.port, folder=site.folder, servers=servers, user=user)


ALL = [Gateway, Haproxy, Nginx]
