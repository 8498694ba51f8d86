"""Runs the Kong plugin apikey-jwt-exchange in a real nginx, without Kong.

nginx has Debian's Lua module, where Kong's nginx has OpenResty's. pdk.lua stands in for Kong's
PDK and its sandbox, and the proxy location is written like Kong's. A stand-in for `apikeys
serve` answers over real sockets, either by its contract or like a broken service. A service
behind nginx repeats each request that it gets. Kong itself has not run this plugin.

Needs nginx with its Lua module, openssl and curl; check.sh installs them.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "kong" / "plugins" / "apikey-jwt-exchange"
PDK = ROOT / "tests" / "kong_plugin" / "pdk.lua"

KEY = "ak_k7x2m9p4q8r1_NotForAnyLogOrService"
OTHER_KEY = "ak_aaaaaaaaaaaa_NotForAnyLogOrServic2"
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJvd25lciJ9.signature-_"
LONG_TOKEN = "x" * 20_000
KEY_ID = "k7x2m9p4q8r1"
OWNER_ID = "0f9c2b7e-1111-2222-3333-444455556666"
IDENTITY = ["x-api-key-id", "x-api-key-owner", "x-api-key-name"]
# Short enough for the tests that hang, long enough for an answer over loopback.
TIMEOUT_MS = 300


class Listener:
    """A server on loopback or a Unix socket that counts its connections."""

    def __init__(self, address=("127.0.0.1", 0), tls=None):
        self.accepted = 0
        self.tls = tls
        self.open = []
        if isinstance(address, tuple):
            self.socket = socket.create_server(address, backlog=128)
            self.port = self.socket.getsockname()[1]
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(address)
            self.socket.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            self.open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with contextlib.suppress(OSError):
            if self.tls:
                peer = self.tls.wrap_socket(peer, server_side=True)
                self.open.append(peer)
            self.serve(peer)
        peer.close()

    def serve(self, peer):
        raise NotImplementedError

    def cut_connections(self):
        while self.open:
            peer = self.open.pop()
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()

    def close(self):
        # shutdown, or accept() would keep the port open in the kernel.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.cut_connections()


class Names:
    """A name server that answers 127.0.0.1 for each name."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                query, peer = self.socket.recvfrom(512)
                flags_and_counts = b"\x81\x80\0\1\0\1\0\0\0\0"
                address = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1"
                self.socket.sendto(query[:2] + flags_and_counts + query[12:] + address, peer)


class Head:
    """The head of a request or answer: the first line, and the headers in their order."""

    def __init__(self, text):
        self.line, *lines = text.decode("latin-1").split("\r\n")[:-2]
        self.headers = [tuple(re.split(r": ?", line, maxsplit=1)) for line in lines]

    def all(self, name):
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def names(self):
        return [name.lower() for name, _ in self.headers]

    def __getitem__(self, name):
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values}"
        return values[0]

    def __contains__(self, name):
        return bool(self.all(name))

    @property
    def status(self):
        return int(self.line.split()[1])


def read_head(reader):
    """Reads one head from a connection; none at the end."""
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return None
        text += line
    return Head(text)


def read_body(reader, head):
    if "chunked" in "".join(head.all("transfer-encoding")):
        body = b""
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
        return body
    return reader.read(int("".join(head.all("content-length")) or 0))


def http(status, headers=(), body=b""):
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers)]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def problem(status, code, *headers):
    body = json.dumps({"status": status, "code": code}).encode()
    return http(status, [("content-type", "application/problem+json"),
                         ("cache-control", "no-store"), *headers,
                         ("apikeys-problem", body.decode()), ("x-of-the-service", "1")], body)


REMOVE = "x-envoy-auth-headers-to-remove"
EXCHANGED = [("authorization", f"Bearer {TOKEN}"), ("apikeys-key-id", KEY_ID),
             ("apikeys-owner-id", OWNER_ID), (REMOVE, "")]


class Exchange(Listener):
    """Stands in for `apikeys serve`. The last part of the path chooses the answer."""

    REFUSALS = {
        "400": problem(400, "ambiguous_credentials"),
        "401": problem(401, "invalid_api_key", ("www-authenticate", 'ApiKey realm="demo"')),
        "403": problem(403, "address_not_allowed"),
        "429": problem(429, "rate_limited", ("retry-after", "7"), ("ratelimit", '"key";r=0;t=7'),
                       ("ratelimit-policy", '"key";q=1;w=7')),
        "503": problem(503, "overloaded", ("retry-after", "1")),
    }
    # The service never answers like this.
    NONSENSE = {
        "nothing": b"",
        "text": b"hello\r\n\r\n",
        "half-head": b"HTTP/1.1 200 OK\r\nContent-Le",
        "half-body": b"HTTP/1.1 401 x\r\ncontent-length: 100\r\n\r\n{",
        "http-1.0": http(200, EXCHANGED).replace(b"HTTP/1.1", b"HTTP/1.0"),
        "http-2": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\r\n\r\n",
        "folded": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n authorization: x\r\n\r\n",
        "no-length": b"HTTP/1.1 200 OK\r\n\r\n",
        "two-lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
        "negative-length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "chunked": http(200, [*EXCHANGED, ("transfer-encoding", "chunked")]) + b"0\r\n\r\n",
        "chunked-with-length": http(200, [*EXCHANGED, ("transfer-encoding", "chunked")]),
        "more-than-its-length": http(200, EXCHANGED) + b"HTTP/1.1 200 OK\r\n",
        "endless-head": b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 300_000,
        "endless-body": b"HTTP/1.1 401 x\r\ncontent-length: 99999999\r\n\r\n" + b"y" * 300_000,
        "200-with-a-body": http(200, EXCHANGED, b"<html>"),
        "200-without-token": http(200, EXCHANGED[1:]),
        "200-without-owner": http(200, [*EXCHANGED[:2], EXCHANGED[3]]),
        "200-with-empty-id": http(200, [EXCHANGED[0], ("apikeys-key-id", ""), *EXCHANGED[2:]]),
        "200-with-two-tokens": http(200, [EXCHANGED[0], *EXCHANGED]),
        "200-with-the-key": http(200, [("authorization", f"ApiKey {KEY}"), *EXCHANGED[1:]]),
        "200-without-list": http(200, EXCHANGED[:3]),
        "200-empty": http(200),
        "200-without-echo": http(200, [(REMOVE, "")]),
        "204": b"HTTP/1.1 204 x\r\ncontent-length: 0\r\n\r\n",
        "302": http(302, [("location", "/login")]),
        "404": http(404, [("content-type", "application/problem+json")]),
        "500": http(500, [("content-type", "application/problem+json")]),
        "401-as-html": http(401, [("content-type", "text/html")], b"<html>"),
        "101": b"HTTP/1.1 101 x\r\nupgrade: x\r\ncontent-length: 0\r\n\r\n",
    }

    def __init__(self, *args, **options):
        self.questions = []
        self.released = threading.Event()
        super().__init__(*args, **options)

    def serve(self, peer):
        reader = peer.makefile("rb")
        while head := read_head(reader):
            self.questions.append(head)
            way = head.line.split()[1].removeprefix("/exchange").strip("/")
            if way == "hang":
                self.released.wait(30)
                return
            peer.sendall(self.NONSENSE[way] if way in self.NONSENSE else self.answer(way, head))
            if way in self.NONSENSE or way == "close":
                return
            if way == "once":
                # Closes the connection while the next auth request is under way.
                read_head(reader)
                return

    def answer(self, way, head):
        if way in self.REFUSALS:
            return self.REFUSALS[way]
        if way == "identity":
            return http(200, [*EXCHANGED, ("x-api-key-id", KEY_ID),
                              ("x-api-key-owner", OWNER_ID), ("x-api-key-name", "B%C3%A4ckerei")])
        if way == "long":
            return http(200, [("authorization", f"Bearer {LONG_TOKEN}"), *EXCHANGED[1:]])
        credentials = [(name, value) for name in ("authorization", "x-api-key")
                       for value in head.all(name)]
        keys = [value.removeprefix("ApiKey ") for _, value in credentials if "ak_" in value]
        if len(credentials) > 1 and len(set(keys)) != 1:
            return self.REFUSALS["400"]
        if not keys:
            return http(200, [*credentials, (REMOVE, "")])
        own = [("apikeys-key-id", keys[0].split("_")[1])] if way == "each" else []
        also = [name for name, value in head.headers
                if keys[0] in value and name not in ("authorization", "x-api-key")]
        if any(name.startswith("x-forwarded-") for name in also):
            return self.REFUSALS["400"]
        told = [header for header in EXCHANGED[:3] if not own or header[0] != own[0][0]] + own
        return http(200, told + [(REMOVE.title(), ",".join(["x-api-key", *also]))])


class Service(Listener):
    """The service behind the gateway: answers with the request that it got."""

    def serve(self, peer):
        reader = peer.makefile("rb")
        while head := read_head(reader):
            body = read_body(reader, head).decode("latin-1")
            told = json.dumps({"headers": head.headers, "body": body}).encode()
            if head.all("upgrade") == ["websocket"]:
                peer.sendall(b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                             b"seen: " + told + b"\r\n\r\n")
                return
            peer.sendall(http(200, [("content-type", "application/json")], told))


class Answer:
    """An answer of the gateway to a client."""

    def __init__(self, head, body):
        self.head, self.status, self.body = head, head.status, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def seen(self):
        """The request as the service got it."""
        assert self.status == 200, (self.status, self.body)
        head = Head(b"x\r\n\r\n")
        head.headers = [tuple(header) for header in self.json["headers"]]
        return head


def lua(value):
    """A Python value as Lua source."""
    if isinstance(value, dict):
        return "{" + ",".join(f"[{lua(k)}]={lua(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ",".join(lua(each) for each in value) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else json.dumps(value)


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Gateway:
    """nginx with the plugin. The path /NAME/… uses the configuration NAME."""

    def __init__(self, service_port, configurations, authority=None, resolver_port=None):
        self.port, self.port_http2 = free_ports(2)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-plugin-"))
        modules = "/usr/lib/nginx/modules"
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};\n"
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        trusted = (f"lua_ssl_trusted_certificate {authority};\n"
                   f"resolver 127.0.0.1:{resolver_port} ipv6=off;\n") if authority else ""
        locations = "".join(self.location(name, conf) for name, conf in configurations.items())
        (self.folder / "nginx.conf").write_text(
            f"load_module {modules}/ndk_http_module.so;\n"
            f"load_module {modules}/ngx_http_lua_module.so;\n"
            f"worker_processes 1;\ndaemon off;\npid {self.folder}/nginx.pid;\n"
            f"error_log {self.folder}/error.log notice;\n"
            # Without this line, Debian's nginx as root would run its workers as nobody.
            f"{'user root;' if os.geteuid() == 0 else ''}\n"
            "events { worker_connections 1024; }\n"
            f"http {{\n{temporary}access_log off;\n"
            # As in Kong's nginx_kong.lua.
            "underscores_in_headers on;\nlua_socket_log_errors off;\nlua_socket_pool_size 256;\n"
            f"{trusted}"
            "init_by_lua_block {\n"
            f"  local pdk = dofile({lua(str(PDK))})\n"
            f"  local handler = pdk.handler({lua(str(PLUGIN / 'handler.lua'))})\n"
            f"  local schema = pdk.schema({lua(str(PLUGIN / 'schema.lua'))}, true)\n"
            "  confs = {}\n"
            "  function run(name, given)\n"
            "    confs[name] = confs[name] or assert(pdk.configured(schema, given))\n"
            "    return handler:access(confs[name])\n"
            "  end\n"
            "}\n"
            "map $http_upgrade $upstream_connection { default keep-alive; websocket Upgrade; }\n"
            f"server {{\nlisten 127.0.0.1:{self.port};\n"
            f"listen 127.0.0.1:{self.port_http2} http2;\n"
            f"set $kong_request_id 0123456789abcdef0123456789abcdef;\n"
            f"location = /__ready {{ return 200; }}\n"
            f"location / {{ return 404; }}\n"
            "header_filter_by_lua_block {\n"
            "  local credential = ngx.ctx.authenticated_credential\n"
            "  local log = ngx.ctx.serialized\n"
            "  ngx.header['Test-Credential'] = credential and credential.id .. ' ' .. credential.owner_id\n"
            # Log plugins write the request's headers as they are at the end.
            "  local logged = {}\n"
            "  for name, value in pairs(ngx.req.get_headers()) do\n"
            "    logged[#logged + 1] = name .. '=' .. (type(value) == 'table' and table.concat(value) or value)\n"
            "  end\n"
            "  ngx.header['Test-Logged'] = table.concat(logged, ' ')\n"
            "  ngx.header['Test-Log'] = log and log.key .. ' ' .. log.value.key_id .. ' ' .. log.value.owner_id\n"
            "}\n"
            + locations.replace("SERVICE", f"127.0.0.1:{service_port}") + "}\n}\n")
        self.process = None

    @staticmethod
    def location(name, conf):
        return (
            f"location /{name}/ {{\n"
            f"access_by_lua_block {{ return run({lua(name)}, {lua(conf)}) }}\n"
            "proxy_http_version 1.1;\n"
            "proxy_set_header Host $host;\n"
            "proxy_set_header Upgrade $http_upgrade;\n"
            "proxy_set_header Connection $upstream_connection;\n"
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
            "proxy_pass http://SERVICE;\n}\n")

    def __enter__(self):
        self.process = subprocess.Popen(
            ["nginx", "-p", str(self.folder), "-c", "nginx.conf",
             "-e", str(self.folder / "error.log")], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                if self.get("/__ready").status == 200:
                    return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self.log()
                self.__exit__()
                raise AssertionError(f"nginx did not start:\n{log}")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self):
        return (self.folder / "error.log").read_text()

    def raw(self, text):
        """Sends the text on a new connection, and returns the first answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as peer:
            peer.sendall(text)
            reader = peer.makefile("rb")
            head = read_head(reader)
            assert head, "the gateway closed without an answer"
            return Answer(head, b"" if head.status == 101 else read_body(reader, head))

    def get(self, path, *headers, method="GET", body=""):
        lines = [f"{method} {path} HTTP/1.1", "Host: api.example.com",
                 *(f"{name}: {value}" for name, value in headers)]
        return self.raw(("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service()
        cls.addClassCleanup(cls.service.close)
        cls.exchange = Exchange()
        cls.addClassCleanup(cls.exchange.close)
        cls.addClassCleanup(cls.exchange.released.set)
        ways = ["", "identity", "each", "long", "hang", *Exchange.REFUSALS, *Exchange.NONSENSE]
        at = f"http://127.0.0.1:{cls.exchange.port}/exchange"
        configurations = {way or "plain": {"url": f"{at}/{way}".rstrip("/"), "timeout": TIMEOUT_MS}
                          for way in ways}
        configurations["close"] = {"url": f"{at}/close"}
        configurations["once"] = {"url": f"{at}/once"}
        configurations["gone"] = {"url": f"http://127.0.0.1:{free_ports(1)[0]}/exchange"}
        cls.gateway = Gateway(cls.service.port, configurations).__enter__()
        cls.addClassCleanup(cls.gateway.__exit__)

    def get(self, path, *headers, **options):
        return self.gateway.get(path, *headers, **options)

    def last_question(self):
        return self.exchange.questions[-1]

    def assert_problem(self, answer, status, code):
        self.assertEqual((answer.status, answer.json["code"]), (status, code))
        self.assertEqual(answer.json["status"], status)
        self.assertEqual(answer.json["type"], f"urn:api-key-gateway:problem:{code}")
        self.assertRegex(answer.json["request_id"], "^[0-9a-f]{32}$")
        self.assertEqual(answer.head["content-type"], "application/problem+json")
        self.assertEqual(answer.head["cache-control"], "no-store")

    def assert_unanswered(self, answer):
        self.assert_problem(answer, 503, "identity_provider_unavailable")
        self.assertEqual(answer.head["retry-after"], "5")


class AnExchange(Case):
    def test_gives_the_service_the_token_and_no_key(self):
        for header in [("Authorization", f"ApiKey {KEY}"), ("X-API-Key", KEY),
                       ("authorization", f"ApiKey {KEY}"), ("x-API-KEY", KEY)]:
            with self.subTest(header):
                answer = self.get("/plain/orders", header)
                self.assertEqual(answer.seen["authorization"], f"Bearer {TOKEN}")
                self.assertNotIn("x-api-key", answer.seen)
                self.assertNotIn(KEY, answer.body.decode())

    def test_takes_the_key_out_of_each_header_that_the_service_names(self):
        seen = self.get("/plain/", ("X-API-Key", KEY), ("X-Copy", f"the key is {KEY}"),
                        ("Cookie", f"key={KEY}"), ("X-Other", "stays")).seen
        self.assertEqual(seen["x-other"], "stays")
        self.assertNotIn("x-copy", seen)
        self.assertNotIn("cookie", seen)

    def test_tells_kong_the_caller_for_limits_and_logs(self):
        answer = self.get("/plain/", ("X-API-Key", KEY))
        self.assertEqual(answer.head["test-credential"], f"{KEY_ID} {OWNER_ID}")
        self.assertEqual(answer.head["test-log"], f"apikeys {KEY_ID} {OWNER_ID}")
        self.assertEqual(answer.seen["x-credential-identifier"], KEY_ID)

    def test_leaves_no_consumer_that_the_client_claims(self):
        claims = ["X-Consumer-ID", "X-Consumer-Custom-ID", "X-Consumer-Username",
                  "X-Anonymous-Consumer", "X-Credential-Identifier"]
        seen = self.get("/plain/", ("X-API-Key", KEY), *((name, "root") for name in claims)).seen
        self.assertEqual([seen.all(name) for name in claims], [[], [], [], [], [KEY_ID]])

    def test_gives_the_identity_that_the_service_tells(self):
        seen = self.get("/identity/", ("X-API-Key", KEY), ("X-API-Key-Name", "claimed")).seen
        self.assertEqual([seen[name] for name in IDENTITY], [KEY_ID, OWNER_ID, "B%C3%A4ckerei"])

    def test_takes_the_keys_headers_out_though_the_service_names_none(self):
        self.assertNotIn("x-api-key", self.get("/identity/", ("X-API-Key", KEY)).seen)

    def test_takes_a_long_token(self):
        seen = self.get("/long/", ("X-API-Key", KEY)).seen
        self.assertEqual(seen["authorization"], f"Bearer {LONG_TOKEN}")

    def test_keeps_the_requests_body(self):
        length = self.get("/plain/", ("X-API-Key", KEY), ("Content-Length", "5"),
                          method="POST", body="hello")
        chunked = self.get("/plain/", ("X-API-Key", KEY), ("Transfer-Encoding", "chunked"),
                           method="POST", body="5\r\nhello\r\n0\r\n\r\n")
        self.assertEqual([length.json["body"], chunked.json["body"]], ["hello", "hello"])

    def test_of_many_at_once_gives_each_its_own(self):
        def one(number):
            answer = self.get("/each/", ("X-API-Key", f"ak_key{number:09}_secret"))
            return answer.seen["x-credential-identifier"]

        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            got = list(pool.map(one, range(200)))
        self.assertEqual(got, [f"key{number:09}" for number in range(200)])


class APassingRequest(Case):
    def test_keeps_its_credentials_and_has_no_caller(self):
        answer = self.get("/plain/", ("Authorization", "Bearer a.b.c"))
        self.assertEqual(answer.seen["authorization"], "Bearer a.b.c")
        self.assertNotIn("test-credential", answer.head)
        self.assertNotIn("test-log", answer.head)
        self.assertNotIn("authorization", self.get("/plain/").seen)

    def test_has_no_identity_however_the_client_writes_it(self):
        claims = ["X-API-Key-ID", "x_api_key_owner", "X-API_Key-Name", "X_API_KEY_ID"]
        seen = self.get("/plain/", *((name, "claimed") for name in claims),
                        ("X-API-Key-ID", "twice"), ("X-API-Key-Idea", "stays")).seen
        self.assertEqual([name for name in seen.names() if "key" in name], ["x-api-key-idea"])

    def test_names_no_consumer_that_no_plugin_has_found(self):
        claims = [("X-Consumer-Username", "root"), ("X-Credential-Identifier", "root")]
        seen = self.get("/plain/", *claims).seen
        self.assertEqual([seen.all(name) for name, _ in claims], [[], []])


class ARefusal(Case):
    def test_is_the_services_own(self):
        for status, sent in Exchange.REFUSALS.items():
            with self.subTest(status):
                answer = self.get(f"/{status}/", ("X-API-Key", KEY))
                head, _, body = sent.partition(b"\r\n\r\n")
                self.assertEqual((answer.status, answer.body), (int(status), body))
                told = Head(head + b"\r\n\r\n")
                for name in ["content-type", "cache-control", "www-authenticate", "retry-after",
                             "ratelimit", "ratelimit-policy"]:
                    self.assertEqual(answer.head.all(name), told.all(name))
                self.assertNotIn("apikeys-problem", answer.head)
                self.assertNotIn("x-of-the-service", answer.head)

    def test_of_a_grpc_call_has_no_json(self):
        answer = self.get("/401/", ("Content-Type", "application/grpc+proto"), ("TE", "trailers"))
        self.assertEqual((answer.status, answer.body), (401, b""))
        self.assertEqual(answer.head["content-type"], "application/grpc")


class TheLogs(Case):
    def test_of_kongs_plugins_get_no_key_however_a_request_ends(self):
        credentials = [("Authorization", f"ApiKey {KEY}"), ("X-API-Key", KEY)]
        many = [(f"x-{number}", "1") for number in range(95)]
        for way in ["plain", "gone", "hang", "200-with-the-key", *Exchange.REFUSALS]:
            with self.subTest(way):
                answer = self.get(f"/{way}/", *credentials, ("X-Other", "stays"))
                self.assertIn("x-other=stays", answer.head["test-logged"])
                self.assertNotIn(KEY, answer.head["test-logged"])
        for more in [*many, ("X-API-Key", KEY)], [*credentials, ("Connection", "Authorization")]:
            self.assertNotIn(KEY, self.get("/plain/", *more).head["test-logged"])


class TheQuestion(Case):
    def test_carries_the_credentials_as_they_came(self):
        self.get("/plain/", ("X-API-Key", KEY), ("x_api_key", "other"), ("Authorization", ""))
        question = self.last_question()
        self.assertEqual(question.line, "GET /exchange HTTP/1.1")
        self.assertEqual(question["x-api-key"], KEY)
        self.assertEqual(question["x_api_key"], "other")
        self.assertEqual(question["authorization"], "")

    def test_carries_a_header_that_came_twice_twice(self):
        answer = self.get("/plain/", ("X-API-Key", KEY), ("X-API-Key", OTHER_KEY))
        self.assertEqual(self.last_question().all("x-api-key"), [KEY, OTHER_KEY])
        self.assertEqual(answer.status, 400)

    def test_tells_the_clients_method_and_address(self):
        self.get("/plain/", method="OPTIONS")
        question = self.last_question()
        self.assertEqual(question["x-forwarded-method"], "OPTIONS")
        self.assertEqual(question["x-forwarded-for"], "127.0.0.1")

    def test_tells_them_whatever_the_client_claims(self):
        self.get("/plain/", ("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2"),
                 ("X-Forwarded-Method", "OPTIONS"), ("x_forwarded_for", "10.0.0.3"),
                 ("X-Real-IP", "10.0.0.4"))
        question = self.last_question()
        self.assertEqual(question["x-forwarded-method"], "GET")
        self.assertEqual(question["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 127.0.0.1")

    def test_tells_the_requests_id(self):
        self.get("/plain/")
        self.assertEqual(self.last_question()["x-request-id"], "0123456789abcdef0123456789abcdef")
        self.get("/plain/", ("X-Request-ID", "from-the-client"))
        self.assertEqual(self.last_question()["x-request-id"], "from-the-client")

    def test_has_no_body_and_no_framing_of_the_clients(self):
        self.get("/plain/", ("Content-Length", "5"), ("Expect", "100-continue"),
                 ("Keep-Alive", "timeout=1"), ("Connection", "close"), method="POST", body="hello")
        names = self.last_question().names()
        for name in ["content-length", "transfer-encoding", "expect", "keep-alive", "connection"]:
            self.assertNotIn(name, names)
        self.assertEqual(names.count("host"), 1)

    def test_shows_headers_of_gateways_where_no_key_may_be(self):
        for name in ["X-Forwarded-For", "X-Forwarded-Method", "X-Forwarded-Host", "TE", "Connection",
                     "Upgrade"]:
            with self.subTest(name):
                value = f"{KEY}-x" if name == "Connection" else KEY
                answer = self.get("/plain/", ("X-API-Key", KEY), (name, value))
                self.assertEqual(answer.status, 400)

    def test_is_never_asked_about_too_many_headers(self):
        before = len(self.exchange.questions)
        few = [(f"x-{number}", "1") for number in range(93)]
        self.assertEqual(self.get("/plain/", ("X-API-Key", KEY), *few).status, 200)
        for more in (94, 900):
            many = [(f"x-{number}", "1") for number in range(more)]
            self.assert_problem(self.get("/plain/", *many, ("X-API-Key", KEY)),
                                400, "ambiguous_credentials")
        self.assertEqual(len(self.exchange.questions), before + 1)


class AClient(Case):
    def test_cannot_have_kong_take_the_token_or_the_identity_out(self):
        # After all plugins, Kong removes the headers that Connection names.
        for value in ["close, Authorization", "x-api-key-id", "keep-alive,X-API-Key-Owner"]:
            with self.subTest(value):
                answer = self.get("/identity/", ("X-API-Key", KEY), ("Connection", value))
                self.assert_problem(answer, 400, "ambiguous_credentials")

    def test_cannot_add_a_line_to_the_question(self):
        before = len(self.exchange.questions)
        for line_end in ["%0D%0A", "%0A", "%0D"]:
            answer = self.get("/plain/", ("X-API-Key", KEY), ("Test-Line-End", line_end))
            self.assert_problem(answer, 400, "ambiguous_credentials")
        self.assertEqual(len(self.exchange.questions), before)

    def test_may_open_a_websocket(self):
        answer = self.get("/plain/", ("X-API-Key", KEY), ("Connection", "Upgrade"),
                          ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x"))
        self.assertEqual(answer.status, 101)
        self.assertIn(TOKEN, answer.head["seen"])
        self.assertNotIn(KEY, answer.head["seen"])

    def test_may_speak_http_1_0(self):
        answer = self.gateway.raw(f"GET /plain/ HTTP/1.0\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        self.assertEqual(answer.seen["authorization"], f"Bearer {TOKEN}")

    def curl(self, path, *options):
        outcome = subprocess.run(
            ["curl", "-sS", "-m", "20", "--http2-prior-knowledge", "-w", "\n%{http_code} %{http_version}",
             *options, f"http://127.0.0.1:{self.gateway.port_http2}{path}"],
            check=True, capture_output=True, text=True)
        body, _, last = outcome.stdout.rpartition("\n")
        status, version = last.split()
        self.assertEqual(version, "2")
        return int(status), body

    def test_may_speak_http_2(self):
        status, body = self.curl("/plain/", "-H", f"X-API-Key: {KEY}", "-d", "hello")
        self.assertEqual(status, 200)
        self.assertIn(TOKEN, body)
        self.assertNotIn(KEY, body)
        self.assertEqual(json.loads(body)["body"], "hello")
        question = self.last_question()
        self.assertEqual(question["x-forwarded-method"], "POST")
        self.assertFalse([name for name in question.names() if name.startswith(":")])

    def test_of_http_2_cannot_smuggle_either(self):
        status, _ = self.curl("/plain/", "-H", f"X-API-Key: {KEY}", "-H", f"X-API-Key: {OTHER_KEY}")
        self.assertEqual(status, 400)
        status, body = self.curl("/plain/", "-H", "x_api_key_id: claimed", "-H", "X-API-Key-Owner: claimed")
        self.assertEqual(status, 200)
        self.assertNotIn("claimed", body)

    def test_that_pipelines_gets_each_answer(self):
        one = "GET /plain/ HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n"
        text = one.format(f"X-API-Key: {KEY}") + one.format("Authorization: Bearer a.b.c")
        with socket.create_connection(("127.0.0.1", self.gateway.port), timeout=30) as peer:
            peer.sendall(text.encode())
            reader = peer.makefile("rb")
            seen = [Answer(head := read_head(reader), read_body(reader, head)).seen for _ in range(2)]
        self.assertEqual([each["authorization"] for each in seen],
                         [f"Bearer {TOKEN}", "Bearer a.b.c"])


class WithoutAProperAnswer(Case):
    def log_lines_of(self, work):
        before = len(self.gateway.log().splitlines())
        work()
        return self.gateway.log().splitlines()[before:]

    def test_nothing_passes(self):
        for way in ["gone", "hang", *Exchange.NONSENSE]:
            with self.subTest(way):
                answers = []
                lines = self.log_lines_of(lambda: answers.append(self.get(
                    f"/{way}/", ("X-API-Key", KEY), ("X-Secret", KEY))))
                self.assert_unanswered(answers[0])
                self.assertEqual(len(lines), 1, lines)
                self.assertIn("[error]", lines[0])
                self.assertIn("no answer from apikeys serve: ", lines[0])
                self.assertNotIn("NotForAny", lines[0])

    def test_a_request_without_key_does_not_pass_either(self):
        for way in ["gone", "hang", "nothing", "404", "401-as-html", "200-with-a-body",
                    "200-empty"]:
            with self.subTest(way):
                self.assert_unanswered(self.get(f"/{way}/"))

    def test_a_token_that_the_answer_does_not_repeat_does_not_pass(self):
        self.assert_unanswered(self.get("/200-without-echo/", ("Authorization", "Bearer a.b.c")))

    def test_a_grpc_call_is_refused_as_such(self):
        answer = self.get("/gone/", ("Content-Type", "application/grpc"))
        self.assertEqual((answer.status, answer.body), (503, b""))
        self.assertEqual(answer.head["retry-after"], "5")


class TheConnection(Case):
    def accepted_by(self, work):
        before = self.exchange.accepted
        work()
        return self.exchange.accepted - before

    def test_is_kept(self):
        self.get("/plain/", ("X-API-Key", KEY))

        def ask_in_turn():
            for headers in [[("X-API-Key", KEY)], [], [("Authorization", "Bearer a.b.c")]] * 5:
                self.assertEqual(self.get("/plain/", *headers).status, 200)

        self.assertEqual(self.accepted_by(ask_in_turn), 0)

    def test_is_kept_after_a_refusal(self):
        self.get("/401/")
        self.assertEqual(self.accepted_by(lambda: [self.get("/401/") for _ in range(5)]), 0)

    def test_that_the_service_closes_costs_no_answer(self):
        for _ in range(20):
            self.assertEqual(self.get("/close/", ("X-API-Key", KEY)).status, 200)

    def test_that_ends_under_a_question_costs_no_answer(self):
        for _ in range(20):
            self.assertEqual(self.get("/once/", ("X-API-Key", KEY)).status, 200)

    def test_that_ended_in_a_restart_costs_no_answer(self):
        exchange = Exchange()
        self.addCleanup(lambda: exchange.close())
        conf = {"plain": {"url": f"http://127.0.0.1:{exchange.port}/exchange"}}
        with Gateway(self.service.port, conf) as gateway:
            for _ in range(5):
                self.assertEqual(gateway.get("/plain/", ("X-API-Key", KEY)).status, 200)
                exchange.cut_connections()
            port = exchange.port
            exchange.close()
            self.assert_unanswered(gateway.get("/plain/", ("X-API-Key", KEY)))
            exchange = Exchange(("127.0.0.1", port))
            self.assertEqual(gateway.get("/plain/", ("X-API-Key", KEY)).status, 200)


class OtherWays(unittest.TestCase):
    """A Unix socket, and TLS."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-plugin-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.service = Service()
        cls.addClassCleanup(cls.service.close)

    def certificate(self, name, host):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}",
             "-keyout", self.folder / f"{name}.key", "-out", self.folder / f"{name}.pem"],
            check=True, capture_output=True)
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def test_over_a_unix_socket_the_connection_is_kept(self):
        path = str(self.folder / "serve.sock")
        exchange = Exchange(path)
        self.addCleanup(exchange.close)
        with Gateway(self.service.port, {"plain": {"url": f"http://unix:{path}:/exchange"}}) as gateway:
            for _ in range(5):
                seen = gateway.get("/plain/", ("X-API-Key", KEY)).seen
                self.assertEqual(seen["authorization"], f"Bearer {TOKEN}")
        self.assertEqual(exchange.accepted, 1)
        self.assertEqual(exchange.questions[0].line, "GET /exchange HTTP/1.1")

    def test_over_tls_only_a_certificate_of_that_name_is_trusted(self):
        ours, key = self.certificate("ours", "serve.internal")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(ours, key)
        exchange = Exchange(tls=tls)
        self.addCleanup(exchange.close)
        theirs, _ = self.certificate("theirs", "serve.internal")
        names = Names()
        self.addCleanup(names.socket.close)
        at = f"https://serve.internal:{exchange.port}/exchange"
        by_address = f"https://127.0.0.1:{exchange.port}/exchange"
        confs = {"verified": {"url": at}, "other-name": {"url": by_address},
                 "unverified": {"url": by_address, "ssl_verify": False}}
        for trusted, expected in ((ours, [200, 503, 200]), (theirs, [503, 503, 200])):
            with Gateway(self.service.port, confs, trusted, names.port) as gateway:
                answers = [gateway.get(f"/{name}/", ("X-API-Key", KEY)) for name in confs]
                self.assertEqual([answer.status for answer in answers], expected, gateway.log())
                kept = exchange.accepted
                for _ in range(3):
                    self.assertEqual(gateway.get("/unverified/", ("X-API-Key", KEY)).status, 200)
                self.assertEqual(exchange.accepted, kept)


class ThePlugin(unittest.TestCase):
    HANDLER = (PLUGIN / "handler.lua").read_text()
    SCHEMA = (PLUGIN / "schema.lua").read_text()

    def test_can_be_streamed(self):
        self.assertLess(len(self.HANDLER) + len(self.SCHEMA), 100_000)
        code = re.sub(r"--[^\n]*", "", self.HANDLER + self.SCHEMA)
        self.assertNotRegex(code, r"\brequire\b")
        self.assertNotIn("init_worker", code)
        self.assertNotIn("timer", code)
        self.assertNotIn("custom_validator", code)

    def test_has_the_projects_version(self):
        [version] = re.findall(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
        self.assertIn(f'VERSION = "{version}"', self.HANDLER)

    def test_runs_between_key_auth_and_rate_limiting(self):
        [priority] = re.findall(r"PRIORITY = (\d+)", self.HANDLER)
        self.assertTrue(990 < int(priority) < 1250)

    def test_asks_about_websocket_routes_too(self):
        self.assertRegex(self.HANDLER, r"function Handler:ws_handshake\(conf\)\n  return self:access\(conf\)")

    def lua(self, block):
        """Runs Lua in nginx, and returns the lines that it returns."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-plugin-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        modules = "/usr/lib/nginx/modules"
        (folder / "nginx.conf").write_text(
            f"load_module {modules}/ndk_http_module.so;\nload_module {modules}/ngx_http_lua_module.so;\n"
            f"pid {folder}/nginx.pid;\nevents {{ }}\nhttp {{\ninit_by_lua_block {{\n"
            f"local pdk = dofile({lua(str(PDK))})\n"
            f"local path = {lua(str(PLUGIN / 'schema.lua'))}\n"
            f"local lines = (function() {block} end)()\n"
            f"local out = io.open({lua(str(folder / 'out'))}, 'w')\n"
            "out:write(table.concat(lines, '\\n'))\nout:close()\nos.exit(0)\n}\n}\n")
        outcome = subprocess.run(["nginx", "-p", folder, "-c", "nginx.conf", "-e", "stderr"],
                                 capture_output=True, text=True)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        return (folder / "out").read_text().split("\n")

    def test_takes_these_configurations_and_no_others(self):
        taken = [{}, {"url": "http://127.0.0.1:8181/exchange/orders"}, {"url": "http://serve/exchange"},
                 {"url": "https://serve.internal:8443/exchange"}, {"url": "http://[::1]:8181/exchange"},
                 {"url": "http://unix:/run/apikeys/serve.sock:/exchange/orders"},
                 {"headers": ["authorization", "X-Key_2"]}, {"timeout": 100}, {"ssl_verify": False}]
        refused = {
            "url": ["", "serve:8181", "http://serve", "ftp://serve/exchange", "http://a b/exchange",
                    "http://serve/exchange?x=1", "http://unix:run.sock:/exchange", "http://user@serve/exchange",
                    "http://unix:/run/serve.sock", "http://serve/a b", "unix:/run/serve.sock:/exchange"],
            "headers": [[], [""], ["a b"], ["x:y"]],
            "timeout": [99, 60001],
            "ssl_verify": ["yes"],
            "cache": [True],
        }
        given = [*taken, *({name: value} for name, values in refused.items() for value in values)]
        got = self.lua(
            "local schema, lines = pdk.schema(path, true), {}\n"
            f"for i, given in ipairs({lua(given)}) do\n"
            "  local conf, name = pdk.configured(schema, given)\n"
            "  lines[i] = conf and 'taken' or name\n"
            "end\nreturn lines")
        self.assertEqual(got, ["taken"] * len(taken)
                         + [name for name, values in refused.items() for _ in values])

    def test_defaults_to_the_services_own(self):
        got = self.lua("local conf = pdk.configured(pdk.schema(path, true), {})\n"
                       "return { conf.url, table.concat(conf.headers, ' '), conf.timeout, tostring(conf.ssl_verify) }")
        self.assertEqual(got, ["http://127.0.0.1:8181/exchange", "authorization x-api-key", "6000", "true"])

    def test_is_for_no_consumer(self):
        # The sandbox has no ngx.null, so a streamed schema cannot forbid a consumer.
        got = self.lua("return { tostring(pdk.schema(path, true).fields[1].consumer.eq == ngx.null),\n"
                       "  tostring(pdk.schema(path, false).fields[1].consumer.eq) }")
        self.assertEqual(got, ["true", "nil"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
