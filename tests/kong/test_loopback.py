"""Runs kong/nginx-apikeys.conf in a real nginx, in front of a real Keycloak.

The file is taken as it is: kong/render.sh writes the two addresses into it, in the
way docker compose does, and a test holds that nothing else differs. nginx has
Debian's Lua module, as Kong's nginx has OpenResty's. Requests are sent as Kong's
callouts are, with a connection each. Figures are printed; what is asserted is an
order or a count, never a duration that a busy machine could miss.

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
# Far above every time-out in the file, far below what a hang would take.
NOT_A_HANG_SECONDS = 15


def figure(text):
    print(f"    {text}", file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def request(port, path, method="GET", body=None, headers=None):
    """One request on a connection of its own; returns status, body and seconds."""
    started_at = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"Connection": "close", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read(), time.monotonic() - started_at
    finally:
        connection.close()


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


class Stub(Listener):
    """Answers as no healthy Keycloak does. The path says how."""

    def __init__(self, **options):
        self.heads = []
        super().__init__(**options)

    def serve(self, peer):
        head = b""
        while b"\r\n\r\n" not in head:
            data = peer.recv(65536)
            if not data:
                return
            head += data
        self.heads.append(head.decode("latin-1"))
        path = self.heads[-1].split()[1]
        if path == "/hang":
            time.sleep(NOT_A_HANG_SECONDS * 2)
        elif path == "/close":
            return
        elif path == "/starting":
            peer.sendall(b"HTTP/1.1 503 Starting\r\nContent-Length: 0\r\n\r\n")
        elif path == "/long-head":
            peer.sendall(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 40_000)
            peer.sendall(b"\r\nContent-Length: 0\r\n\r\n")
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
            # Without one, Debian's nginx as root would run its workers as nobody.
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
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                if request(self.port, "/yield")[0] == 204:
                    return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self.log()
                self.__exit__()
                raise AssertionError(f"nginx did not start:\n{log}\n{self.check().stderr}")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "error.log").read_text()
        return ""


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

    def test_speaks_to_keycloak_under_its_public_name(self):
        stub = Stub()
        self.addCleanup(stub.close)
        with Nginx(stub.port) as nginx:
            request(nginx.port, "/realms/demo", headers={
                "Host": "login.example.com", "Accept-Encoding": "gzip",
                "Authorization": "Bearer x",
            })
        head = stub.heads[0].lower()
        self.assertTrue(head.startswith("get /realms/demo http/1.1\r\n"), head)
        self.assertIn("\r\nhost: login.example.com\r\n", head)
        self.assertIn("\r\nauthorization: bearer x\r\n", head)
        self.assertNotIn("accept-encoding", head)
        self.assertNotIn("connection:", head)


class YieldAndWait(unittest.TestCase):
    WAITERS = 20

    @classmethod
    def setUpClass(cls):
        cls.nginx = Nginx(KEYCLOAK_ADDRESS[1]).__enter__()
        cls.addClassCleanup(cls.nginx.__exit__)

    def timed(self, path):
        status, _, seconds = request(self.nginx.port, path)
        self.assertEqual(status, 204)
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
            return replaced(conf, "try_files $uri @waited;", "return 204;")

        with Nginx(KEYCLOAK_ADDRESS[1], edit) as nginx:
            in_threads(self.WAITERS, lambda _: request(nginx.port, "/wait"))
            self.assertNotIn("delaying request", nginx.log())

    def test_more_waiters_than_the_queue_holds_are_refused_at_once(self):
        def edit(conf):
            return replaced(conf, "burst=400", "burst=4")

        with Nginx(KEYCLOAK_ADDRESS[1], edit) as nginx:
            statuses = in_threads(40, lambda _: request(nginx.port, "/wait")[0])
        self.assertEqual(set(statuses), {204, 503})


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

    def test_a_keycloak_that_never_answers_is_a_504(self):
        stub = Stub()
        self.addCleanup(stub.close)
        with Nginx(stub.port) as nginx:
            status, _, seconds = request(nginx.port, "/hang")
        figure(f"Keycloak silent: 504 after {seconds:.2f} s")
        self.assertEqual(status, 504)
        self.assertLess(seconds, NOT_A_HANG_SECONDS)

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

    def test_an_answer_of_200_megabytes_is_cut_off(self):
        for path in ("/200-megabytes", "/200-megabytes-chunked"):
            with self.subTest(path):
                with self.assertRaises(http.client.IncompleteRead) as caught:
                    request(self.nginx.port, path)
                received = len(caught.exception.partial)
                figure(f"{path}: cut off after {received / 1048576:.1f} MiB")
                self.assertLessEqual(received, 4194304)
        self.assertIn("longer than 4 MiB", self.nginx.log())

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
