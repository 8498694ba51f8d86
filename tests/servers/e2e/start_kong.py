#!/usr/bin/env python3
"""Starts a Kong of this machine for a trial of the end-to-end suite: an E2E_GATEWAY_START.

The suite's protocol is at the top of tests/servers/e2e/main.rs. This is for a gateway under test that is a
Kong too, so the environment tells of it:

  KONG               the program of Kong 3.9, `kong` unless told otherwise
  WASM               the filter, target/wasm/apikey_jwt_exchange.wasm unless told otherwise
  SIGNING_KEY_FILE   the gateway's signing key, in PEM
  SERVICE            the address of the service, which takes JWTs alone
  KEYCLOAK_URL, REALM
"""

import json
import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 60
# Faults of Kong's Wasm host have filled a disk with its log.
FILE_BYTES_MAX = 256 * 1024 * 1024
NAME = "apikey_jwt_exchange"


def free_ports(count):
    """Ports of loopback that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def write(path, text):
    """Writes a file for its owner alone: some hold keys."""
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def loopback(listen, nodes):
    """The loopback server's configuration, with a line for each node of Keycloak."""
    environment = {**os.environ, "APIKEYS_LISTEN": listen, "KEYCLOAK_ADDRESS": nodes[0]}
    rendered = subprocess.run(
        [PROJECT / "kong/render.sh", PROJECT / "kong/nginx-apikeys.conf"],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout
    lines = []
    for line in rendered.splitlines():
        is_node = line.strip().startswith(f"server {nodes[0]} ")
        lines += [line.replace(nodes[0], node) for node in nodes] if is_node else [line]
    return "\n".join(lines) + "\n"


def declarative(told, upstream):
    """Kong's configuration: one service on one route, with the filter."""
    fields = {
        "keycloak_url": os.environ["KEYCLOAK_URL"],
        "realm": os.environ["REALM"],
        "keycloak_upstream": upstream,
        # Nobody listens on port 9.
        "yield_upstream": upstream if told["yields"] else "127.0.0.1:9",
        "signing_key_property": "ngx.apikey_signing_key",
        **told["fields"],
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    route = {
        "name": "orders", "paths": ["/"], "strip_path": False,
        "filter_chains": [{"filters": [{"name": NAME, "config": fields}]}],
    }
    service = {"name": "orders", "url": f"http://{told['service'] or os.environ['SERVICE']}", "routes": [route]}
    config = {"_format_version": "3.0", "services": [service]}
    if told["key_auth"] is not None:
        route["plugins"] = [{"name": "key-auth", "config": {"key_names": ["apikey"], "hide_credentials": False}}]
        keys = {}
        for key, client in told["key_auth"].items():
            keys.setdefault(client, []).append({"key": key})
        config["consumers"] = [{"username": client, "keyauth_credentials": found} for client, found in keys.items()]
    return config


def prepare(folder, told):
    """Writes the files that Kong reads; returns its settings, its URL and the URL of its readiness."""
    proxy, status, helper = free_ports(3)
    (folder / "filters").mkdir()
    shutil.copy(os.environ.get("WASM", PROJECT / f"target/wasm/{NAME}.wasm"), folder / f"filters/{NAME}.wasm")
    shutil.copy(PROJECT / f"kong/{NAME}.meta.json", folder / "filters")
    keycloak = os.environ["KEYCLOAK_URL"].split("://")[1]
    write(folder / "loopback.conf", loopback(f"127.0.0.1:{helper}", told["keycloak"] or [keycloak]))
    pem = told["signing_key"] or Path(os.environ["SIGNING_KEY_FILE"]).read_text(encoding="utf-8")
    body = "".join(line for line in pem.splitlines() if not line.startswith("-----"))
    write(folder / "signing-key.conf", f"set $apikey_signing_key '{body}';\n")
    # JSON is YAML.
    write(folder / "kong.yml", json.dumps(declarative(told, f"127.0.0.1:{helper}")))
    settings = {
        "DATABASE": "off",
        "PREFIX": folder / "prefix",
        "DECLARATIVE_CONFIG": folder / "kong.yml",
        "WASM": "on",
        "WASM_FILTERS_PATH": folder / "filters",
        "NGINX_WASM_SHM_KV": "32m",
        "NGINX_HTTP_CLIENT_BODY_BUFFER_SIZE": "16k",
        "NGINX_HTTP_INCLUDE": folder / "loopback.conf",
        "NGINX_PROXY_INCLUDE": folder / "signing-key.conf",
        "NGINX_WORKER_PROCESSES": told["workers"],
        # With a queue for each worker, connections come to all of them.
        "PROXY_LISTEN": f"127.0.0.1:{proxy} reuseport",
        "STATUS_LISTEN": f"127.0.0.1:{status}",
        "ADMIN_LISTEN": "off",
        "ADMIN_GUI_LISTEN": "off",
        "ANONYMOUS_REPORTS": "off",
        "PROXY_ACCESS_LOG": "off",
        "PROXY_ERROR_LOG": told["log"],
        "STATUS_ERROR_LOG": told["log"],
    }
    if told["trusted_hops"]:
        settings["TRUSTED_IPS"] = "127.0.0.0/8"
        settings["REAL_IP_HEADER"] = "X-Forwarded-For"
    settings = {f"KONG_{name}": str(value) for name, value in settings.items()}
    return settings, f"http://127.0.0.1:{proxy}", f"http://127.0.0.1:{status}/status/ready"


def is_ready(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def main():
    told = json.loads(sys.stdin.readline())
    # A write beyond it fails, since the signal that it would send is ignored.
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        settings, url, ready = prepare(folder, told)

        def kong(command):
            program = shlex.split(os.environ.get("KONG", "kong"))
            return subprocess.run(
                [*program, command], env={**os.environ, **settings}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False, restore_signals=False,
            )

        started = kong("start")
        deadline = time.monotonic() + SECONDS_MAX
        is_up = started.returncode == 0
        while is_up and not is_ready(ready):
            is_up = time.monotonic() < deadline
            time.sleep(0.1)
        if is_up:
            pid = (folder / "prefix/pids/nginx.pid").read_text(encoding="utf-8").strip()
            print(f"url {url}\npid {pid}\nready", flush=True)
            sys.stdin.read()
        else:
            sys.stderr.write(started.stdout + started.stderr)
            print("refused", flush=True)
        kong("stop")


main()
