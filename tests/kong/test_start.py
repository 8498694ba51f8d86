"""Runs the scripts that docker compose runs before Kong serves: entrypoint.sh and setup.sh.

No Docker engine is needed: both are plain bash, and variables name their folders.
setup.sh works on its own realm in a real Keycloak, and the realm is removed at the end.

Needs KEYCLOAK_URL, KEYCLOAK_ADMIN_USER, KEYCLOAK_ADMIN_PASSWORD and APIKEYS (the
built apikeys tool); check.sh sees to them.
"""

import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
KONG = ROOT / "kong"
PATH = os.environ["PATH"]


class Entrypoint(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-kong-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.secret = self.folder / "signing-key.conf"
        self.secret.write_text("set $apikey_signing_key 'TUlHSEFnRUE=';\n")
        stub = self.folder / "docker-entrypoint.sh"
        stub.write_text("#!/bin/sh\necho \"$@\"\nenv\n")
        stub.chmod(0o755)

    def start(self, **variables):
        return subprocess.run(
            ["bash", str(KONG / "entrypoint.sh"), "kong", "docker-start"],
            env={
                "PATH": PATH,
                "APIKEYS_RENDERED_DIR": str(self.folder / "rendered"),
                "APIKEYS_NEXT_ENTRYPOINT": str(self.folder / "docker-entrypoint.sh"),
                "KONG_NGINX_PROXY_INCLUDE": str(self.secret),
                **variables,
            },
            capture_output=True, text=True,
        )

    def test_hands_over_to_the_images_entrypoint_with_both_files_written(self):
        outcome = self.start(API_KEY_PREFIX="acme_", KEYCLOAK_ADDRESS="login.internal:9090")
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        lines = outcome.stdout.splitlines()
        self.assertEqual(lines[0], "kong docker-start")
        rendered = self.folder / "rendered"
        self.assertIn(f"KONG_DECLARATIVE_CONFIG={rendered}/kong.yml", lines)
        self.assertIn(f"KONG_NGINX_HTTP_INCLUDE={rendered}/nginx-apikeys.conf", lines)
        self.assertEqual((rendered / "kong.yml").read_text().count('key_prefix: "acme_"'), 3)
        self.assertIn("server login.internal:9090 ", (rendered / "nginx-apikeys.conf").read_text())

    def test_the_signing_key_is_in_no_variable(self):
        self.assertNotIn("TUlHSEFnRUE", self.start().stdout)

    def test_does_not_start_without_a_signing_key(self):
        self.secret.unlink()
        outcome = self.start()
        self.assertNotEqual(outcome.returncode, 0)
        self.assertIn("cannot read the signing key", outcome.stderr)
        self.assertEqual(outcome.stdout, "")

    def test_does_not_start_with_a_value_that_is_none(self):
        outcome = self.start(API_KEY_EXCHANGE_CACHE_TTL="300\n      mode: manage")
        self.assertNotEqual(outcome.returncode, 0)
        self.assertIn("API_KEY_EXCHANGE_CACHE_TTL", outcome.stderr)
        self.assertEqual(outcome.stdout, "")


class Setup(unittest.TestCase):
    REALM = f"kong-setup-{os.getpid()}"

    @classmethod
    def setUpClass(cls):
        cls.url = os.environ["KEYCLOAK_URL"].rstrip("/")
        cls.user = os.environ["KEYCLOAK_ADMIN_USER"]
        cls.password = os.environ["KEYCLOAK_ADMIN_PASSWORD"]
        realm = json.loads((ROOT / "deploy" / "demo" / "realm.json").read_text())
        realm["realm"] = cls.REALM
        cls.admin("POST", "", realm)
        cls.addClassCleanup(cls.admin, "DELETE", f"/{cls.REALM}")

    @classmethod
    def admin(cls, method, path, value=None):
        """A request to Keycloak's admin REST interface, by the administrator."""
        form = urllib.parse.urlencode({
            "grant_type": "password", "client_id": "admin-cli",
            "username": cls.user, "password": cls.password,
        })
        token_url = f"{cls.url}/realms/master/protocol/openid-connect/token"
        with urllib.request.urlopen(token_url, form.encode()) as answer:
            token = json.load(answer)["access_token"]
        asked = urllib.request.Request(
            f"{cls.url}/admin/realms{path}", method=method,
            data=None if value is None else json.dumps(value).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="apikeys-setup-"))
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ("keys", "secret", "out", "bin"):
            (self.folder / name).mkdir()
        (self.folder / "bin" / "apikeys").symlink_to(pathlib.Path(os.environ["APIKEYS"]).resolve())

    def run_once(self, **variables):
        """Runs setup.sh until it is ready, then ends it; returns all that it printed."""
        ready = self.folder / "ready"
        log = self.folder / "setup.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", str(KONG / "setup.sh")], stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    "PATH": f"{self.folder}/bin:{PATH}",
                    "KEYCLOAK_ADDRESS_URL": self.url,
                    "KEYCLOAK_URL": "http://localhost:8080",
                    "GATEWAY_URL": "http://localhost:8000",
                    "REALM": self.REALM,
                    "KEYCLOAK_ADMIN_USER": self.user,
                    "KEYCLOAK_ADMIN_PASSWORD": self.password,
                    "KEYS_DIR": f"{self.folder}/keys",
                    "SECRET_DIR": f"{self.folder}/secret",
                    "OUT_DIR": f"{self.folder}/out",
                    "OWNER_FILE": str(ROOT / "docker-compose.yml"),
                    "READY_FILE": str(ready),
                    # A group that this user may give a file to.
                    "KONG_GROUP": "10001" if os.geteuid() == 0 else str(os.getegid()),
                    **variables,
                },
            )
            try:
                deadline = time.monotonic() + 120
                while not ready.exists():
                    self.assertIsNone(process.poll(), log.read_text())
                    self.assertLess(time.monotonic(), deadline, log.read_text())
                    time.sleep(0.1)
                # It must stay: `docker compose up --wait` takes an end for a failure.
                time.sleep(0.5)
                self.assertIsNone(process.poll(), log.read_text())
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait(10)
        return log.read_text()

    def demo_env(self):
        lines = (self.folder / "out" / "demo.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def test_prepares_all_that_kong_and_the_demo_need_and_twice_is_as_once(self):
        printed = self.run_once()
        demo = self.demo_env()
        self.assertEqual(set(demo), {
            "GATEWAY_URL", "KEYCLOAK_URL", "REALM", "API_KEY", "SERVICE_API_KEY",
            "EXPIRED_API_KEY", "KEYCLOAK_ADMIN_USER", "KEYCLOAK_ADMIN_PASSWORD",
        })
        self.assertEqual(demo["GATEWAY_URL"], "http://localhost:8000")
        self.assertEqual(demo["KEYCLOAK_URL"], "http://localhost:8080")

        # The owners of the keys.
        for owner, key in (
            ("alice", demo["API_KEY"]),
            ("service-account-billing-service", demo["SERVICE_API_KEY"]),
            ("bob", demo["EXPIRED_API_KEY"]),
        ):
            self.assertRegex(key, r"^sk_live_[0-9a-z]{12}_[0-9A-Za-z]{38}$")
            key_id = key.split("_")[2]
            found = self.admin(
                "GET", f"/{self.REALM}/users?max=2&q=apiKeyIndex:{key_id.ljust(288, '.')}")
            self.assertEqual([user["username"] for user in found], [owner])
        ends_at = found[0]["attributes"][f"apiKey_{key_id}_expiresAt"][0]
        self.assertLess(ends_at, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

        # The permissions of the files.
        def mode(path):
            return stat.S_IMODE(os.stat(path).st_mode)

        directive = self.folder / "secret" / "signing-key.conf"
        self.assertEqual(mode(self.folder / "out" / "demo.env"), 0o600)
        self.assertEqual(mode(self.folder / "keys" / "signing-key.pem"), 0o600)
        self.assertEqual(mode(directive), 0o640)
        if os.geteuid() == 0:
            self.assertEqual(os.stat(directive).st_gid, 10001)
        owner = os.stat(ROOT / "docker-compose.yml")
        self.assertEqual(os.stat(self.folder / "out" / "demo.env").st_uid, owner.st_uid)

        # nginx gets the key whole, and nothing of it is printed.
        pem = (self.folder / "keys" / "signing-key.pem").read_text()
        body = "".join(line for line in pem.splitlines() if "-----" not in line)
        self.assertEqual(directive.read_text(), f"set $apikey_signing_key '{body}';\n")
        for secret in (body, demo["API_KEY"], demo["SERVICE_API_KEY"], self.password):
            if len(secret) > 8:
                self.assertNotIn(secret, printed)

        self.run_once()
        self.assertEqual(self.demo_env(), demo)
        alice = self.admin("GET", f"/{self.REALM}/users?username=alice&exact=true"
                                  "&briefRepresentation=false")[0]
        self.assertEqual(len(alice["attributes"]["apiKeys"]), 1)

    def test_nothing_is_ready_when_keycloak_is_not_there(self):
        with self.assertRaises(AssertionError) as caught:
            self.run_once(KEYCLOAK_ADDRESS_URL="http://127.0.0.1:1")
        self.assertIn("127.0.0.1:1", str(caught.exception))
        self.assertFalse((self.folder / "ready").exists())
        self.assertFalse((self.folder / "out" / "demo.env").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
