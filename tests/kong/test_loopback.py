"""Runs kong/nginx-apikeys.conf in a real nginx, in front of a real Keycloak.

The file is used as it is: kong/render.sh writes the two addresses into it, as docker
compose does, and a test checks that nothing else differs. nginx has Debian's Lua
module, as Kong's nginx has OpenResty's. Each request has its own connection, like
Kong's callouts. Kong's host crashes on an answer without a body, so `request` itself
fails on one. The tests print durations and assert only orders and counts, which a busy
machine cannot miss.

Needs KEYCLOAK_URL (http), nginx with its Lua module, and openssl; check.sh sees to
them.
"""

import contextlib
import difflib
import http.client
import os
import pathlib
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONF = ROOT / "kong" / "nginx-apikeys.conf"
KEYCLOAK = urllib.parse.urlsplit(os.environ["KEYCLOAK_URL"])
KEYCLOAK_ADDRESS = (KEYCLOAK.hostname, KEYCLOAK.port or 80)
DISCOVERY = "/realms/master/.well-known/openid-configuration"
TOKEN = "/realms/master/protocol/openid-connect/token"
WORKERS = 2
# Far above every time-out in the file, far below the length of a hang.
NOT_A_HANG_SECONDS = 15


def figure(text):
    print(f"    {text}", file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer_to(port, path, method="GET", body=None, headers=None):
    """One request on a connection of its own; returns the answer's head and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"Connection": "close", **(headers or {})})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def request(port, path, method="GET", body=None, headers=None):
    """The same; returns status, body and seconds. An empty body is an error."""
    started_at = time.monotonic()
    answer, text = answer_to(port, path, method, body, headers)
    if not text:
        raise AssertionError(f"{method} {path}: status {answer.status} without a body")
    return answer.status, text, time.monotonic() - started_at


class Listener:
    """A TCP server on a free port that counts the connections it accepts."""

    def __init__(self, port=0, tls=None):
        self.accepted = 0
        self.tls = tls
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.open = []
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

    def close(self):
        # shutdown, or accept() would keep the port open in the kernel.
        for each in [self.socket, *self.open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Forwarder(Listener):
    """Passes every byte on to Keycloak, so `accepted` counts nginx's connections."""

    def serve(self, peer):
        with socket.create_connection(KEYCLOAK_ADDRESS) as keycloak:
            self.open.append(keycloak)
            back = threading.Thread(target=self._copy, args=(keycloak, peer), daemon=True)
            back.start()
            self._copy(peer, keycloak)
            back.join()

    @staticmethod
    def _copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def head_and_body(reader):
    """Reads one request of a connection; nothing at its end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return None, None
        head += line
    length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
    return head.decode("latin-1"), reader.read(int(length[1]) if length else 0)


class Stub(Listener):
    """Answers as no healthy Keycloak does. The path says how."""

    # Sent as they stand; after one of CUT the connection is closed.
    WHOLE = {
        "/200-empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "/200-empty-chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "/201": b"HTTP/1.1 201 Created\r\nLocation: /1\r\nContent-Length: 0\r\n\r\n",
        "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/205": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
        "/302": b"HTTP/1.1 302 Found\r\nLocation: /1\r\nContent-Length: 0\r\n\r\n",
        "/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        "/404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        "/409-empty": b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n",
        "/500-empty": b"HTTP/1.1 500 Fault\r\nContent-Length: 0\r\n\r\n",
        "/starting": b"HTTP/1.1 503 Starting\r\nContent-Length: 0\r\n\r\n",
        "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n",
        "/100-headers": b"HTTP/1.1 200 OK\r\n"
                        + b"".join(b"X-%d: 1\r\n" % n for n in range(100))
                        + b"Content-Length: 2\r\n\r\nok",
    }
    CUT = {
        "/close": b"",
        "/cut-head": b"HTTP/1.1 200 OK\r\nContent-Le",
        "/cut-body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\":",
        "/cut-before-body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        "/cut-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{\"acc",
        "/cut-between-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        "/long-head": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 40_000 + b"\r\n"
                      b"Content-Length: 2\r\n\r\nok",
        "/100": b"HTTP/1.1 100 Continue\r\n\r\n",
    }

    def __init__(self, **options):
        self.heads = []
        self.bodies = []
        self.dribble_was_ended = threading.Event()
        super().__init__(**options)

    def serve(self, peer):
        reader = peer.makefile("rb")
        while True:
            head, body = head_and_body(reader)
            if head is None:
                return
            self.heads.append(head)
            self.bodies.append(body)
            path = head.split()[1]
            if path in self.CUT:
                peer.sendall(self.CUT[path])
                return
            self.answer(path, peer)

    def answer(self, path, peer):
        if path in self.WHOLE:
            peer.sendall(self.WHOLE[path])
        elif path == "/hang":
            time.sleep(NOT_A_HANG_SECONDS * 2)
        elif path == "/hang-in-body":
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(NOT_A_HANG_SECONDS * 2)
        elif path == "/dribble":
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            try:
                for _ in range(1000):
                    peer.sendall(b" ")
                    time.sleep(0.1)
            except OSError:
                self.dribble_was_ended.set()
                raise
        elif path == "/200-megabytes":
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 209715200\r\n\r\n")
            for _ in range(3200):
                peer.sendall(b" " * 65536)
        elif path == "/200-megabytes-chunked":
            peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(3200):
                peer.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            peer.sendall(b"0\r\n\r\n")
        elif path == "/4-megabytes":
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n")
            peer.sendall(b" " * 4194304)
        else:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Nginx:
    """nginx with the loopback server in it, as Kong's nginx includes it."""

    def __init__(self, keycloak_port, edit=lambda conf: conf, port=None):
        self.port = port or free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-nginx-"))
        (self.folder / "apikeys.conf").write_text(edit(rendered(self.port, keycloak_port)))
        modules = "/usr/lib/nginx/modules"
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"load_module {modules}/ndk_http_module.so;\n"
            f"load_module {modules}/ngx_http_lua_module.so;\n"
            f"worker_processes {WORKERS};\ndaemon off;\npid {self.folder}/nginx.pid;\n"
            f"error_log {self.folder}/error.log info;\n"
            # Without this line, Debian's nginx as root would run its workers as nobody.
            f"{'user root;' if os.geteuid() == 0 else ''}\n"
            "events { worker_connections 512; }\n"
            f"http {{\n{temporary}access_log {self.folder}/access.log;\n"
            f"include {self.folder}/apikeys.conf;\n}}\n"
        )
        self.process = None

    def command(self, *more):
        return ["nginx", "-p", str(self.folder), "-c", "nginx.conf",
                "-e", str(self.folder / "error.log"), *more]

    def check(self):
        return subprocess.run(self.command("-t"), capture_output=True, text=True)

    def __enter__(self):
        self.process = subprocess.Popen(self.command(), stderr=subprocess.DEVNULL)
        try:
            self.wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_it_answers(self):
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                if request(self.port, "/yield")[0] == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"nginx did not start:\n{self.log()}\n{self.check().stderr}")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "error.log").read_text()
        return ""

    def peak_mebibytes(self):
        """The most memory that a worker has had."""
        pid = self.process.pid
        workers = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        states = [pathlib.Path(f"/proc/{worker}/status").read_text() for worker in workers]
        return max(int(re.search(r"VmHWM:\s*(\d+) kB", state)[1]) for state in states) / 1024


def rendered(port, keycloak_port):
    """The file as kong/render.sh writes it, with these two addresses."""
    addresses = {
        "APIKEYS_LISTEN": f"127.0.0.1:{port}",
        "KEYCLOAK_ADDRESS": f"127.0.0.1:{keycloak_port}",
    }
    return subprocess.run(
        ["bash", str(ROOT / "kong" / "render.sh"), str(CONF)],
        env={"PATH": os.environ["PATH"], **addresses},
        check=True, capture_output=True, text=True,
    ).stdout


def location_blocks(conf):
    """The text of each location, by its name."""
    return {name: block for name, block in re.findall(
        r"\n    location (\S+|= \S+|\^~ \S+) \{\n(.*?)\n    \}", conf, re.DOTALL)}


def milliseconds(block, directive):
    [value] = re.findall(rf"\n *{directive} (\d+)ms;", block)
    return int(value)


def replaced(conf, old, new):
    if old not in conf:
        raise AssertionError(f"nginx-apikeys.conf has no longer: {old}")
    return conf.replace(old, new)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def in_threads(count, work):
    """Runs work(n) in `count` threads that start together; returns the results."""
    results, barrier = [None] * count, threading.Barrier(count)

    def run(index):
        barrier.wait()
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class TheFile(unittest.TestCase):
    def test_is_accepted_by_nginx(self):
        nginx = Nginx(KEYCLOAK_ADDRESS[1])
        try:
            outcome = nginx.check()
            self.assertEqual(outcome.returncode, 0, outcome.stderr)
            self.assertNotIn("[warn]", outcome.stderr)
        finally:
            shutil.rmtree(nginx.folder)

    def test_differs_from_what_runs_here_in_two_addresses_alone(self):
        diff = difflib.unified_diff(
            CONF.read_text().splitlines(), rendered(1, 2).splitlines(), n=0, lineterm=""
        )
        added = [line[1:].split("#")[0].strip() for line in diff if re.match(r"\+[^+]", line)]
        self.assertEqual(added, [
            "server 127.0.0.1:2 max_fails=2 fail_timeout=1s;",
            "listen 127.0.0.1:1;",
        ])


class TheSigningKey(unittest.TestCase):
    def test_arrives_whole_in_the_variable_that_the_filter_reads(self):
        # As KONG_NGINX_PROXY_INCLUDE puts it into the server of Kong's proxy.
        key = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg+/=="
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as directive:
            directive.write(f"set $apikey_signing_key '{key}';\n")
            directive.flush()

            def edit(conf):
                return replaced(conf, "location = /yield {", f"include {directive.name};\n"
                                "location = /key { return 200 $apikey_signing_key; }\n"
                                "location = /yield {")

            with Nginx(KEYCLOAK_ADDRESS[1], edit) as nginx:
                self.assertEqual(request(nginx.port, "/key")[1].decode(), key)


class TheProxyLocation(unittest.TestCase):
    """kong/nginx-location.conf, among the headers that Kong's own location sets."""

    def heads(self, include):
        stub = Stub()
        self.addCleanup(stub.close)

        def edit(conf):
            return replaced(conf, "location = /yield {", f"""location = /orders {{
                {include}
                proxy_set_header Host $host;
                proxy_set_header X-Real-IP $remote_addr;
                proxy_pass http://127.0.0.1:{stub.port};
            }}
            location = /yield {{""")

        with Nginx(KEYCLOAK_ADDRESS[1], edit) as nginx:
            for value in ("", "sk_live_1"):
                request(nginx.port, "/orders", headers={
                    "X-API-Key": value, "Authorization": "Bearer x", "X-Other": "y",
                })
        return stub.heads

    def test_keeps_the_header_of_a_key_from_the_service_and_no_other(self):
        for head in self.heads(f"include {ROOT}/kong/nginx-location.conf;"):
            head = head.lower()
            self.assertNotIn("x-api-key", head)
            for kept in ("host: 127", "x-real-ip: 127", "authorization: bearer x", "x-other: y"):
                self.assertIn(f"\r\n{kept}", head)

    def test_without_it_even_the_empty_header_would_go_on(self):
        for head in self.heads(""):
            self.assertIn("\r\nx-api-key:", head.lower())


class ThePool(unittest.TestCase):
    REQUESTS = 200

    def send(self, nginx):
        """Half look-ups (GET), half grants (POST), with nobody's credentials."""
        grant = urllib.parse.urlencode({"grant_type": "client_credentials", "client_id": "nobody"})
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        seconds = []
        for n in range(self.REQUESTS):
            if n % 2:
                status, body, took = request(nginx.port, TOKEN, "POST", grant, form)
                self.assertIn(status, (400, 401))
                self.assertIn(b"invalid_client", body)
            else:
                status, body, took = request(nginx.port, DISCOVERY)
                self.assertEqual(status, 200)
                self.assertIn(b"token_endpoint", body)
            seconds.append(took)
        return statistics.median(seconds) * 1000

    def test_reuses_connections_to_keycloak(self):
        keycloak = Forwarder()
        self.addCleanup(keycloak.close)
        with Nginx(keycloak.port) as nginx:
            median = self.send(nginx)
        figure(f"{self.REQUESTS} requests through the pool: {keycloak.accepted} connections "
               f"to Keycloak, median {median:.1f} ms")
        self.assertGreaterEqual(keycloak.accepted, 1)
        self.assertLessEqual(keycloak.accepted, WORKERS * 2)

    def test_the_count_would_show_a_missing_pool(self):
        def edit(conf):
            return replaced(conf, "    keepalive 32;\n", "")

        keycloak = Forwarder()
        self.addCleanup(keycloak.close)
        with Nginx(keycloak.port, edit) as nginx:
            median = self.send(nginx)
        figure(f"the same without the pool: {keycloak.accepted} connections, "
               f"median {median:.1f} ms")
        self.assertEqual(keycloak.accepted, self.REQUESTS)


class CallsAsKeycloakGetsThem(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stub = Stub()
        cls.addClassCleanup(cls.stub.close)
        cls.nginx = Nginx(cls.stub.port).__enter__()
        cls.addClassCleanup(cls.nginx.__exit__)

    def arrived(self, path, method="GET", body=None, headers=None):
        self.assertEqual(request(self.nginx.port, path, method, body, headers)[0], 200)
        return self.stub.heads[-1], self.stub.bodies[-1]

    def test_a_call_names_keycloak_by_its_public_name(self):
        head, body = self.arrived("/realms/demo", headers={
            "Host": "login.example.com", "Accept-Encoding": "gzip",
            "Authorization": "Bearer x",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        })
        self.assertTrue(head.startswith("GET /realms/demo HTTP/1.1\r\n"), head)
        head = head.lower()
        self.assertIn("\r\nhost: login.example.com\r\n", head)
        self.assertIn("\r\nauthorization: bearer x\r\n", head)
        self.assertIn("\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-", head)
        for absent in ("accept-encoding:", "connection:", "content-length:", "transfer-encoding:"):
            self.assertNotIn(absent, head)
        self.assertEqual(body, b"")

    def test_a_path_and_a_query_arrive_byte_for_byte(self):
        for path in (
            "/admin/realms/demo/users?max=2&q=apiKeyIndex:0123456789ab....",
            "/groups?search=a%26b%20c&exact=true",
            "/a%2Fb/%C3%A9+%2B?q=%25&r=%3F&empty=&+",
            "/a//b?x=1?y=2",
            "/users/?",
        ):
            with self.subTest(path):
                head, _ = self.arrived(path)
                self.assertEqual(head.split("\r\n")[0], f"GET {path} HTTP/1.1")

    def test_a_body_arrives_as_it_was_sent(self):
        json = {"Content-Type": "application/json", "Authorization": "Bearer x"}
        for method in ("POST", "PUT"):
            for body in (b"{}", b"\x00\xff%0A\r\n" * 9, b"x" * 200_000):
                with self.subTest(method, bytes=len(body)):
                    head, arrived = self.arrived("/users/1", method, body, json)
                    self.assertEqual(arrived, body)
                    self.assertTrue(head.startswith(f"{method} /users/1 HTTP/1.1\r\n"), head)
                    head = head.lower()
                    self.assertEqual(head.count("content-length:"), 1)
                    self.assertIn("\r\ncontent-type: application/json\r\n", head)
                    self.assertIn("\r\nauthorization: bearer x\r\n", head)

    def test_a_chunked_body_arrives_with_its_length(self):
        head, body = self.arrived("/users/1", "PUT", iter([b'{"a"', b":1}"]))
        self.assertEqual(body, b'{"a":1}')
        self.assertIn("\r\ncontent-length: 7\r\n", head.lower())
        self.assertNotIn("transfer-encoding", head.lower())

    def test_a_delete_arrives_as_one(self):
        head, body = self.arrived("/groups/1", "DELETE", headers={"Authorization": "Bearer x"})
        self.assertTrue(head.startswith("DELETE /groups/1 HTTP/1.1\r\n"), head)
        self.assertEqual(body, b"")


class AnswersAsTheFilterGetsThem(unittest.TestCase):
    """Whole answers that have a body: Kong's host crashes on all others."""

    @classmethod
    def setUpClass(cls):
        cls.stub = Stub()
        cls.addClassCleanup(cls.stub.close)
        cls.nginx = Nginx(cls.stub.port).__enter__()
        cls.addClassCleanup(cls.nginx.__exit__)

    def test_an_empty_answer_becomes_one_with_a_body(self):
        for path, status in (
            ("/200-empty", 200), ("/200-empty-chunked", 200), ("/201", 201), ("/204", 200),
            ("/205", 200), ("/302", 302), ("/304", 200), ("/409-empty", 409),
            ("/500-empty", 500), ("/starting", 503),
        ):
            for method in ("GET", "POST", "PUT", "DELETE"):
                with self.subTest(path, method=method):
                    sent = b"{}" if method in ("POST", "PUT") else None
                    answer, body = answer_to(self.nginx.port, path, method, sent)
                    self.assertEqual((answer.status, body), (status, b"{}"))
                    self.assertEqual(answer.headers["Content-Length"], "2")

    def test_an_answer_with_a_body_stays_as_it_is(self):
        for path, expected in (("/404", (404, b"no")), ("/chunked", (200, b'{"a":1}'))):
            answer, body = answer_to(self.nginx.port, path)
            self.assertEqual((answer.status, body), expected)
            # The length comes first, so that a reader knows whether the body is whole.
            self.assertEqual(answer.headers["Content-Length"], str(len(body)))
            self.assertIsNone(answer.headers["Transfer-Encoding"])

    def test_no_header_of_keycloak_goes_on(self):
        # The host cuts its list of an answer's headers at 100, with wrong lengths.
        answer, _ = answer_to(self.nginx.port, "/100-headers")
        self.assertLessEqual({name.lower() for name in answer.headers}, {
            "connection", "content-length", "content-type", "date", "server",
        })
        self.assertNotIn("Location", answer_to(self.nginx.port, "/201")[0].headers)

    def test_an_answer_that_is_cut_off_is_a_502_and_none_of_it_goes_on(self):
        for path in Stub.CUT:
            for method in ("GET", "POST"):
                with self.subTest(path, method=method):
                    sent = b"x" if method == "POST" else None
                    status, body, _ = request(self.nginx.port, path, method, sent)
                    self.assertEqual(status, 502)
                    self.assertIn(b"502 Bad Gateway", body)
                    self.assertNotIn(b"{", body)

    def test_nginxs_own_errors_have_a_body(self):
        for expected, path, method, body, headers in (
            (404, "/.keycloak", "GET", None, {}),
            (404, "/.keycloak?x", "POST", b"x", {}),
            (405, "/realms/demo", "PATCH", b"{}", {}),
            (405, "/realms/demo", "OPTIONS", None, {}),
            (413, "/users/1", "PUT", b"x" * 300_000, {}),
            (413, "/users/1", "PUT", iter([b"x" * 300_000]), {}),
            (414, "/" + "x" * 40_000, "GET", None, {}),
            (400, "/realms/demo", "GET", None, {"X-Long": "x" * 40_000}),
            (400, "/%2e%2e/x", "GET", None, {}),
            (400, "/realms/demo", "GET", None, {"Host": "a b"}),
            (501, "/realms/demo", "PUT", b"{}", {"Transfer-Encoding": "gzip"}),
        ):
            with self.subTest(expected, path=path[:20], method=method):
                status, text, _ = request(self.nginx.port, path, method, body, headers)
                self.assertEqual(status, expected)
                self.assertIn(b"<title>", text)

    def test_a_line_that_is_no_request_is_answered_with_a_body(self):
        for line in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", self.nginx.port), 30) as peer:
                peer.sendall(line)
                with peer.makefile("rb") as reader:
                    self.assertIn(b"<title>400 Bad Request</title>", reader.read())


class YieldAndWait(unittest.TestCase):
    WAITERS = 20

    @classmethod
    def setUpClass(cls):
        cls.nginx = Nginx(KEYCLOAK_ADDRESS[1]).__enter__()
        cls.addClassCleanup(cls.nginx.__exit__)

    def timed(self, path):
        status, body, seconds = request(self.nginx.port, path)
        self.assertEqual((status, len(body)), (200, 1))
        return seconds

    def test_a_lone_waiter_is_held_up_and_a_yield_is_not(self):
        yields = [self.timed("/yield") for _ in range(200)]
        waits = [self.timed("/wait") for _ in range(200)]
        figure(f"alone, one after the other: /yield p50 {percentile(yields, .5) * 1e3:.2f} "
               f"p99 {percentile(yields, .99) * 1e3:.2f} ms, /wait p50 "
               f"{percentile(waits, .5) * 1e3:.2f} p99 {percentile(waits, .99) * 1e3:.2f} ms")
        self.assertGreater(statistics.median(waits), statistics.median(yields))

    def test_waiters_take_turns_while_a_yield_still_answers_at_once(self):
        ends_at = time.monotonic() + 3
        yields = []

        def work(index):
            if index == self.WAITERS:
                while time.monotonic() < ends_at:
                    yields.append(self.timed("/yield"))
                    time.sleep(0.01)
                return []
            waits = []
            while time.monotonic() < ends_at:
                waits.append(self.timed("/wait"))
            return waits

        turns = in_threads(self.WAITERS + 1, work)[: self.WAITERS]
        counts = [len(waits) for waits in turns]
        waits = [seconds for each in turns for seconds in each]
        figure(f"{self.WAITERS} waiters at once for 3 s: {min(counts)} to {max(counts)} turns "
               f"each, /wait p50 {percentile(waits, .5) * 1e3:.1f} "
               f"p99 {percentile(waits, .99) * 1e3:.1f} ms, "
               f"/yield meanwhile p50 {percentile(yields, .5) * 1e3:.2f} ms")
        self.assertGreater(statistics.median(waits), statistics.median(yields))
        self.assertGreater(min(counts) * 2, max(counts), "some wait far longer than others")

    def test_waits_end_no_faster_than_the_queue_lets_them(self):
        started_at = time.monotonic()
        in_threads(self.WAITERS, lambda _: self.timed("/wait"))
        in_turn = time.monotonic() - started_at
        figure(f"{self.WAITERS} waits at once: the last answered after {in_turn * 1e3:.0f} ms")
        # 5 ms apart; a busy machine can only make it longer.
        self.assertGreater(in_turn, (self.WAITERS - 1) * 0.005 * 0.9)
        self.assertIn("delaying request", self.nginx.log())

    def test_return_in_the_place_of_try_files_would_not_wait(self):
        def edit(conf):
            return replaced(conf, "try_files $uri @waited;", 'return 200 ".";')

        with Nginx(KEYCLOAK_ADDRESS[1], edit) as nginx:
            in_threads(self.WAITERS, lambda _: request(nginx.port, "/wait"))
            self.assertNotIn("delaying request", nginx.log())

    def test_more_waiters_than_the_queue_holds_are_refused_at_once(self):
        def edit(conf):
            return replaced(conf, "burst=400", "burst=4")

        with Nginx(KEYCLOAK_ADDRESS[1], edit) as nginx:
            # Each with a body, or request() fails.
            statuses = in_threads(40, lambda _: request(nginx.port, "/wait")[0])
        self.assertEqual(set(statuses), {200, 503})


class WhenKeycloakFails(unittest.TestCase):
    def test_a_keycloak_that_is_gone_is_a_502_and_its_return_is_noticed(self):
        keycloak = Forwarder()
        with Nginx(keycloak.port) as nginx:
            self.assertEqual(request(nginx.port, DISCOVERY)[0], 200)
            keycloak.close()
            gone = [request(nginx.port, DISCOVERY) for _ in range(5)]
            back = Forwarder(port=keycloak.port)
            self.addCleanup(back.close)
            self.assertEqual(request(nginx.port, DISCOVERY)[0], 200)
        slowest = max(seconds for _, _, seconds in gone)
        figure(f"Keycloak gone: 502 after {slowest * 1e3:.1f} ms at most; back: 200 at once")
        self.assertEqual({status for status, _, _ in gone}, {502})
        self.assertLess(slowest, NOT_A_HANG_SECONDS)

    def test_a_keycloak_that_is_too_slow_is_a_504_in_time(self):
        stub = Stub()
        self.addCleanup(stub.close)
        with Nginx(stub.port) as nginx:
            for path, expected in (("/hang", 504), ("/hang-in-body", 502), ("/dribble", 504)):
                for method in ("GET", "POST"):
                    sent = b"x" if method == "POST" else None
                    status, body, seconds = request(nginx.port, path, method, sent)
                    figure(f"{method} {path}: {status} after {seconds:.2f} s")
                    self.assertEqual(status, expected)
                    self.assertNotIn(b"{", body)
            # Nobody waits for it, so it does not go on for ever.
            self.assertTrue(stub.dribble_was_ended.wait(NOT_A_HANG_SECONDS))

    def test_the_time_limits_end_before_those_of_the_filters_callout(self):
        host, file = 2000, location_blocks(CONF.read_text())
        whole, keycloak = file["/"], file["= /.keycloak"]
        self.assertLess(milliseconds(whole, "proxy_connect_timeout")
                        + milliseconds(whole, "proxy_read_timeout"), host)
        # While the sum is within the limit, a node that is gone costs no answer.
        connect = milliseconds(keycloak, "proxy_connect_timeout")
        answer = milliseconds(keycloak, "proxy_read_timeout")
        self.assertEqual(milliseconds(keycloak, "proxy_send_timeout"), answer)
        self.assertLessEqual(2 * connect + answer, milliseconds(whole, "proxy_read_timeout"))
        # A try that ends by connect_timeout is early enough for another one.
        self.assertGreater(milliseconds(keycloak, "proxy_next_upstream_timeout"), connect)
        self.assertLess(milliseconds(keycloak, "proxy_next_upstream_timeout"), answer)
        # The dribble is ended when the first location has answered, and not before.
        [dribble] = re.findall(r"start_time\(\) > ([0-9.]+) then", CONF.read_text())
        self.assertEqual(float(dribble) * 1000, milliseconds(whole, "proxy_read_timeout"))
        schema = (ROOT / "kong" / "apikey_jwt_exchange.meta.json").read_text()
        [of_the_filter] = re.findall(
            r'"callout_timeout_ms": \{[^}]*"default": (\d+)', schema)
        self.assertEqual(int(of_the_filter), host)

    def second_node(self, port):
        return lambda conf: replaced(
            conf, "# server keycloak-2:8080", f"server 127.0.0.1:{port}")

    def test_another_node_takes_over(self):
        keycloak = Forwarder()
        self.addCleanup(keycloak.close)
        with Nginx(free_port(), self.second_node(keycloak.port)) as nginx:
            statuses = {request(nginx.port, DISCOVERY)[0] for _ in range(20)}
            posts = {request(nginx.port, TOKEN, "POST", "client_id=nobody")[0] for _ in range(20)}
        self.assertEqual(statuses, {200})
        self.assertTrue(posts <= {400, 401, 415}, posts)

    def test_a_node_that_takes_no_connection_is_passed_over(self):
        # Its queue is full, so the kernel drops each new connection.
        with socket.socket() as full, contextlib.ExitStack() as queue:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(4):
                peer = queue.enter_context(socket.socket())
                peer.setblocking(False)
                peer.connect_ex(full.getsockname())
            stub = Stub()
            self.addCleanup(stub.close)
            with Nginx(full.getsockname()[1], self.second_node(stub.port)) as nginx:
                answers = [request(nginx.port, "/x", "POST", b"x")[:2] for _ in range(3)]
                self.assertIn("Connection timed out) while connecting to upstream", nginx.log())
        self.assertEqual(answers, [(200, b"ok")] * 3)

    def test_a_node_that_is_starting_is_passed_over(self):
        first, second = Stub(), Stub()
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        with Nginx(first.port, self.second_node(second.port)) as nginx:
            status, _, _ = request(nginx.port, "/starting")
        self.assertEqual(status, 503)
        self.assertEqual(first.accepted + second.accepted, 2)

    def test_a_post_is_never_sent_twice(self):
        first, second = Stub(), Stub()
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        with Nginx(first.port, self.second_node(second.port)) as nginx:
            status, _, _ = request(nginx.port, "/close", "POST", "assertion=1")
            self.assertEqual(status, 502)
            self.assertEqual(len(first.heads) + len(second.heads), 1)
            request(nginx.port, "/close")
            self.assertEqual(len(first.heads) + len(second.heads), 3)


class Bounds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stub = Stub()
        cls.addClassCleanup(cls.stub.close)
        cls.nginx = Nginx(cls.stub.port).__enter__()
        cls.addClassCleanup(cls.nginx.__exit__)

    def test_an_answer_of_200_megabytes_is_a_502_and_is_not_held(self):
        for path in ("/200-megabytes", "/200-megabytes-chunked"):
            with self.subTest(path):
                status, body, _ = request(self.nginx.port, path)
                self.assertEqual(status, 502)
                self.assertIn(b"502 Bad Gateway", body)
        self.assertIn("longer than 4 MiB", self.nginx.log())
        peak = self.nginx.peak_mebibytes()
        figure(f"two answers of 200 MB, both refused: {peak:.0f} MiB of memory at most")
        self.assertLess(peak, 64)

    def test_an_answer_of_4_mebibytes_passes(self):
        status, body, _ = request(self.nginx.port, "/4-megabytes")
        self.assertEqual((status, len(body)), (200, 4194304))

    def test_an_answer_with_an_endless_head_is_a_502(self):
        self.assertEqual(request(self.nginx.port, "/long-head")[0], 502)

    def test_no_credential_touches_the_disk(self):
        secret = "assertion=NotForAnyLog" + "x" * 60_000
        for path in ("/token", "/close"):
            request(self.nginx.port, f"{path}", "POST", secret, {
                "Authorization": "Bearer NotForAnyLog",
            })
        written = [each for each in self.nginx.folder.rglob("*") if each.is_file()]
        self.assertIn("error.log", [each.name for each in written])
        for each in written:
            self.assertNotIn("NotForAnyLog", each.read_text(), each.name)
        self.assertEqual((self.nginx.folder / "access.log").read_text(), "")
        self.assertEqual([each for each in written if each.parent != self.nginx.folder], [])
        # nginx unlinks a temporary file at once, so only its log tells.
        self.assertNotIn("temporary file", self.nginx.log())


class Tls(unittest.TestCase):
    """The lines that the file shows in comments, uncommented."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-tls-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        for name in ("ours", "theirs"):
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                 "-subj", "/CN=login.example.com",
                 "-addext", "subjectAltName=DNS:login.example.com",
                 "-keyout", cls.folder / f"{name}.key", "-out", cls.folder / f"{name}.pem"],
                check=True, capture_output=True,
            )
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cls.folder / "ours.pem", cls.folder / "ours.key")
        cls.stub = Stub(tls=tls)
        cls.addClassCleanup(cls.stub.close)

    def ask(self, trusted, host):
        def edit(conf):
            conf = replaced(conf, "proxy_pass http://", "proxy_pass https://")
            conf, count = re.subn(r"# (proxy_ssl_\w+ .*;)", r"\1", conf)
            self.assertEqual(count, 6)
            return replaced(conf, "/etc/ssl/certs/ca-certificates.crt",
                            str(self.folder / f"{trusted}.pem"))

        with Nginx(self.stub.port, edit) as nginx:
            status, _, _ = request(nginx.port, "/realms/demo", headers={"Host": host})
            return status, nginx.log()

    def test_a_certificate_of_a_known_authority_is_accepted(self):
        self.assertEqual(self.ask("ours", "login.example.com")[0], 200)

    def test_a_certificate_of_an_unknown_authority_is_refused(self):
        status, log = self.ask("theirs", "login.example.com")
        self.assertEqual(status, 502)
        self.assertIn("certificate verify error", log)

    def test_a_certificate_for_another_name_is_refused(self):
        status, log = self.ask("ours", "other.example.com")
        self.assertEqual(status, 502)
        self.assertIn("does not match", log)


if __name__ == "__main__":
    unittest.main(verbosity=2)
