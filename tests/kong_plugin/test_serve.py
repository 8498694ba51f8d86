"""Runs the Kong plugin with a real `apikeys serve` and a real Keycloak.

nginx stands in for Kong, as in test_plugin.py. Needs the same programs, KEYCLOAK_URL,
KEYCLOAK_ADMIN_USER and KEYCLOAK_ADMIN_PASSWORD (a Keycloak with the demo's realm), and APIKEYS
(the built apikeys tool); check.sh provides them.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest
import urllib.request

from test_plugin import IDENTITY, ROOT, Gateway, Service, free_ports

APIKEYS = os.environ["APIKEYS"]
KEYCLOAK_URL = os.environ["KEYCLOAK_URL"]
REALM = ["--keycloak-url", KEYCLOAK_URL, "--realm", "demo",
         "--admin-user", os.environ["KEYCLOAK_ADMIN_USER"]]


def apikeys(*arguments):
    outcome = subprocess.run([APIKEYS, *map(str, arguments)], capture_output=True, text=True)
    assert outcome.returncode == 0, f"apikeys {arguments[0]}: {outcome.stdout}{outcome.stderr}"


def id_of(key):
    return key.split("_")[2]


class Served(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-serve-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        apikeys("setup", *REALM, "--signing-key-file", cls.folder / "signing-key.pem")
        cls.port, cls.operations = free_ports(2)
        exchange = {"keycloak_url": KEYCLOAK_URL, "realm": "demo", "throttle_failures_per_minute": 0}
        (cls.folder / "apikeys.json").write_text(json.dumps({
            "listen": [f"127.0.0.1:{cls.port}", f"unix:{cls.folder}/serve.sock"],
            "listen_operations": [f"127.0.0.1:{cls.operations}"],
            "signing_key_file": "signing-key.pem",
            "removes_headers": True,
            "exchanges": {
                "demo": {**exchange, "identity_headers": True},
                "browsers": {**exchange, "on_missing_key": "reject", "preflight": "pass"},
                "off": {**exchange, "enabled": False},
            },
        }))
        cls.process = None
        cls.addClassCleanup(cls.stop)
        cls.start()
        cls.service = Service()
        cls.addClassCleanup(cls.service.close)
        at = f"http://127.0.0.1:{cls.port}/exchange"
        cls.gateway = Gateway(cls.service.port, {
            "demo": {"url": f"{at}/demo"},
            "socket": {"url": f"http://unix:{cls.folder}/serve.sock:/exchange/demo"},
            "browsers": {"url": f"{at}/browsers"},
            "off": {"url": f"{at}/off"},
            "nowhere": {"url": f"{at}/nowhere"},
            "fewer": {"url": f"{at}/demo", "headers": ["x-api-key"]},
        }).__enter__()
        cls.addClassCleanup(cls.gateway.__exit__)
        cls.key = cls.new_key("first")

    @classmethod
    def start(cls):
        log = (cls.folder / "serve.log").open("a")
        cls.process = subprocess.Popen([APIKEYS, "serve", "--config", cls.folder / "apikeys.json"],
                                       stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{cls.operations}/readyz"):
                    return
            log = (cls.folder / "serve.log").read_text()
            assert cls.process.poll() is None and time.monotonic() < deadline, log
            time.sleep(0.05)

    @classmethod
    def stop(cls):
        if cls.process and cls.process.poll() is None:
            cls.process.terminate()
            cls.process.wait(30)

    @classmethod
    def new_key(cls, name, *options):
        path = cls.folder / f"{name}.key"
        apikeys("create", *REALM, "--owner", "alice", "--name", name, "--output-file", path,
                "--max-keys-per-user", 20, *options)
        return path.read_text().strip()

    def get(self, path, *headers, **options):
        return self.gateway.get(path, *headers, **options)

    def assert_refused(self, answer, status, code):
        self.assertEqual((answer.status, answer.json["code"]), (status, code), answer.body)
        self.assertEqual(answer.head["content-type"], "application/problem+json")

    def assert_exchanged(self, answer, key):
        """Checks the token and the caller, and returns the token."""
        scheme, token = answer.seen["authorization"].split(" ")
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        self.assertEqual((scheme, claims["preferred_username"]), ("Bearer", "alice"))
        self.assertNotIn(key, answer.body.decode())
        self.assertEqual(answer.head["test-credential"], f"{id_of(key)} {claims['sub']}")
        self.assertEqual(answer.head["test-log"], f"apikeys {id_of(key)} {claims['sub']}")
        return token

    def test_a_key_becomes_a_token_of_its_owner(self):
        for way in ("demo", "socket"):
            with self.subTest(way):
                answer = self.get(f"/{way}/", ("Authorization", f"ApiKey {self.key}"))
                token = self.assert_exchanged(answer, self.key)
                self.assertEqual(answer.seen["x-api-key-id"], id_of(self.key))
                self.assertEqual(answer.seen["x-api-key-name"], "first")
                # The token passes as it is, and names nobody to Kong.
                again = self.get(f"/{way}/", ("Authorization", f"Bearer {token}"))
                self.assertEqual(again.seen["authorization"], f"Bearer {token}")
                self.assertNotIn("test-credential", again.head)

    def test_no_copy_of_the_key_and_no_claim_of_an_identity_goes_on(self):
        answer = self.get("/demo/", ("X-API-Key", self.key), ("X-Copy", f"={self.key}="),
                          ("Cookie", f"key={self.key}"), ("x_api_key_name", "claimed"),
                          ("X-API-Key-Owner", "claimed"), ("X-Other", "stays"))
        self.assert_exchanged(answer, self.key)
        self.assertEqual(answer.seen["x-other"], "stays")
        self.assertNotIn("claimed", answer.body.decode())
        for name in IDENTITY:
            self.assertEqual(len(answer.seen.all(name)), 1)

    def test_a_key_where_gateways_write_is_refused(self):
        for name in ("X-Forwarded-For", "X-Forwarded-Method", "X-Forwarded-Host", "Via", "Forwarded",
                     "TE", "Upgrade"):
            with self.subTest(name):
                answer = self.get("/demo/", ("X-API-Key", self.key), (name, self.key))
                self.assert_refused(answer, 400, "ambiguous_credentials")

    def test_refusals_are_the_services(self):
        wrong = self.key[:-1] + ("a" if self.key[-1] != "a" else "b")
        answer = self.get("/demo/", ("X-API-Key", wrong))
        self.assert_refused(answer, 401, "invalid_api_key")
        self.assertIn('realm="demo"', answer.head["www-authenticate"])
        self.assert_refused(self.get("/demo/"), 401, "missing_credentials")
        twice = self.get("/demo/", ("X-API-Key", self.key), ("X-API-Key", self.key))
        self.assert_refused(twice, 400, "ambiguous_credentials")

    def test_each_number_of_headers_is_exchanged_or_refused(self):
        for count in range(88, 104):
            # Two more are Host and the key.
            many = [(f"x-{number}", "1") for number in range(count - 2)]
            answer = self.get("/demo/", ("X-API-Key", self.key), *many)
            with self.subTest(count):
                if count <= 95:
                    self.assert_exchanged(answer, self.key)
                else:
                    self.assert_refused(answer, 400, "ambiguous_credentials")

    def test_a_keys_networks_are_compared_with_the_clients_own_address(self):
        here = self.new_key("here", "--allow-from", "127.0.0.0/8")
        there = self.new_key("there", "--allow-from", "10.0.0.0/8")
        claims = [("X-Forwarded-For", "10.0.0.1"), ("x_forwarded_for", "10.0.0.1"),
                  ("X-Real-IP", "10.0.0.1"), ("Forwarded", "for=10.0.0.1")]
        self.assert_exchanged(self.get("/demo/", ("X-API-Key", here), *claims), here)
        answer = self.get("/demo/", ("X-API-Key", there), *claims)
        self.assert_refused(answer, 403, "address_not_allowed")

    def test_a_keys_limit_is_told(self):
        key = self.new_key("limited", "--rate-limit", "1/60")
        self.assert_exchanged(self.get("/demo/", ("X-API-Key", key)), key)
        answer = self.get("/demo/", ("X-API-Key", key))
        self.assert_refused(answer, 429, "rate_limited")
        self.assertIn("retry-after", answer.head)
        self.assertIn("ratelimit", answer.head)
        self.assertIn("ratelimit-policy", answer.head)

    def test_only_a_preflight_passes_as_one(self):
        preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")]
        self.assertEqual(self.get("/browsers/", *preflight, method="OPTIONS").status, 200)
        claimed = self.get("/browsers/", *preflight, ("X-Forwarded-Method", "OPTIONS"))
        self.assert_refused(claimed, 401, "missing_credentials")

    def test_an_exchange_that_is_off_changes_nothing_but_claims(self):
        headers = [("X-API-Key", self.key), ("X-API-Key", "second"), ("Authorization", "Basic eDp5")]
        seen = self.get("/off/", *headers, ("X-API-Key-ID", "claimed")).seen
        self.assertEqual(seen.all("x-api-key"), [self.key, "second"])
        self.assertEqual(seen["authorization"], "Basic eDp5")
        self.assertNotIn("x-api-key-id", seen)

    def test_an_exchange_that_there_is_not_lets_nothing_pass(self):
        answer = self.get("/nowhere/", ("X-API-Key", self.key))
        self.assert_refused(answer, 503, "identity_provider_unavailable")

    def test_with_fewer_headers_than_the_service_reads_the_key_goes_all_the_same(self):
        answer = self.get("/fewer/", ("Authorization", f"ApiKey {self.key}"), ("X-API-Key", self.key))
        self.assert_exchanged(answer, self.key)

    def test_a_revoked_key_is_refused_soon(self):
        key = self.new_key("revoked")
        self.assert_exchanged(self.get("/demo/", ("X-API-Key", key)), key)
        apikeys("revoke", *REALM, id_of(key))
        deadline = time.monotonic() + 30
        while (answer := self.get("/demo/", ("X-API-Key", key))).status == 200:
            self.assertLess(time.monotonic(), deadline, "the key still works")
            time.sleep(0.1)
        self.assert_refused(answer, 401, "invalid_api_key")

    def test_a_service_that_ends_is_missed_and_its_return_is_noticed(self):
        self.assert_exchanged(self.get("/demo/", ("X-API-Key", self.key)), self.key)
        self.stop()
        gone = self.get("/demo/", ("X-API-Key", self.key))
        self.start()
        self.assert_refused(gone, 503, "identity_provider_unavailable")
        self.assertEqual(gone.head["retry-after"], "5")
        self.assert_exchanged(self.get("/demo/", ("X-API-Key", self.key)), self.key)

    def test_the_services_configurations_of_the_demo_and_the_page_are_valid(self):
        page = (ROOT / "docs" / "install" / "kong-plugin.md").read_text()
        [of_the_page] = re.findall(r"```yaml\n(# serve\.yaml.*?)```", page, re.DOTALL)
        of_the_demo = (ROOT / "deploy" / "compose-kong-plugin" / "serve.yml").read_text()
        for text in (of_the_page, of_the_demo.replace("/keys/signing-key.pem", "signing-key.pem")):
            path = self.folder / "checked.yml"
            path.write_text(text)
            apikeys("serve", "--config", path, "--check")

    def test_no_log_has_a_key(self):
        self.get("/demo/", ("X-API-Key", self.key), ("X-API-Key", self.key))
        self.get("/nowhere/", ("X-API-Key", self.key))
        secret = self.key.split("_")[3]
        self.assertNotIn(secret, self.gateway.log())
        self.assertNotIn(secret, (self.folder / "serve.log").read_text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
