#!/usr/bin/env python3
"""Measures one gateway from outside: what a warm, a refreshed and a first-used key cost.

usage: bench.py RESULTS_JSON

Expects a running demo, named by the environment as in .run/demo.env, and starts a second
gateway of its own beside it: one worker, a cache of one second, and two taps whose access logs
say, to the microsecond, when Keycloak was called and when the worker yielded. Figures go to the
terminal and to RESULTS_JSON. scripts/bench.sh calls it.
"""

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUN = os.environ["RUN_DIR"]
WARM_REQUESTS = 20_000
REFRESHES = 40
FIRST_USES = 10

ACCESS_LOG = """
                access_log:
                  - name: envoy.access_loggers.file
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
                      path: "{path}"
                      log_format: {{ text_format_source: {{ inline_string: "{line}\\n" }} }}"""

TAP = """
    - name: keycloak_tap
      address:
        socket_address: {{ address: 127.0.0.1, port_value: {port} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: keycloak_tap{log}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: keycloak
                      domains: ["*"]
                      routes:
                        - match: {{ prefix: "/" }}
                          route: {{ cluster: keycloak_behind_tap, timeout: 10s }}
"""


class Gateway:
    """A connection to a gateway that is kept open."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)

    def orders(self, key):
        """One GET /orders; its milliseconds."""
        started = time.perf_counter()
        self.connection.request("GET", "/orders", headers={"Authorization": f"ApiKey {key}"})
        answer = self.connection.getresponse()
        answer.read()
        elapsed = (time.perf_counter() - started) * 1000
        if answer.status != 200:
            raise SystemExit(f"bench: /orders answered {answer.status}, not 200")
        return elapsed


def admin(url, path):
    with urllib.request.urlopen(url + path, timeout=10) as answer:
        return answer.read().decode()


def stat(url, name):
    found = re.search(rf"^{re.escape(name)}: (\d+)$", admin(url, f"/stats?filter=^{name}$"), re.M)
    return int(found.group(1)) if found else 0


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def new_key(number):
    """Makes a key for alice's colleague bob: each first use needs one that nobody has used."""
    command = [
        os.path.join(ROOT, "target/release/apikeys"), "create",
        "--keycloak-url", os.environ["KEYCLOAK_URL"], "--realm", os.environ["REALM"],
        "--admin-user", os.environ["KEYCLOAK_ADMIN_USER"], "--owner", "bob",
        "--name", f"bench {number}", "--max-keys-per-user", "100", "--output", "json",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise SystemExit(f"bench: apikeys create failed: {made.stderr.strip()}")
    return json.loads(made.stdout)["api_key"]


def start_tapped_gateway(ports):
    """Renders envoy/envoy.yaml with the taps in it and starts it; gives the logs' paths."""
    logs = {name: os.path.join(RUN, f"bench-{name}.log") for name in ("yield", "keycloak")}
    for path in logs.values():
        open(path, "w").close()
    with open(os.path.join(ROOT, "envoy/envoy.yaml")) as file:
        text = file.read()
    since = "%START_TIME(%s.%6f)% %COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)% %REQ(:PATH)%"
    yield_log = ACCESS_LOG.format(path=logs["yield"], line=since)
    text = replace_once(text, "stat_prefix: yield\n", f"stat_prefix: yield{yield_log}\n")
    tap_log = ACCESS_LOG.format(path=logs["keycloak"], line=since)
    tap = TAP.format(port=ports["TAP_PORT"], log=tap_log)
    text = replace_once(text, "\n  clusters:\n", f"{tap}\n  clusters:\n")
    # The filter's cluster leads to the tap; a copy of it leads on to Keycloak.
    start = text.index("    - name: keycloak\n      type:")
    cluster = text[start : text.index("\n\n", start)]
    behind = cluster.replace("name: keycloak", "name: keycloak_behind_tap").replace(
        "cluster_name: keycloak\n", "cluster_name: keycloak_behind_tap\n")
    tapped = cluster.replace("${KEYCLOAK_PORT}", str(ports["TAP_PORT"]))
    text = text.replace(cluster, f"{tapped}\n\n{behind}")
    template = os.path.join(RUN, "bench-envoy.template.yaml")
    config = os.path.join(RUN, "bench-envoy.yaml")
    with open(template, "w") as file:
        file.write(text)
    environment = os.environ | {name: str(port) for name, port in ports.items()}
    environment |= {"API_KEY_EXCHANGE_CACHE_TTL": "1", "ENVOY_CONCURRENCY": "1"}
    for command in (["scripts/render.sh", template, config],
                    ["scripts/envoy.sh", "start", "bench", config]):
        subprocess.run([os.path.join(ROOT, command[0]), *command[1:]], env=environment, check=True)
    return logs


def replace_once(text, old, new):
    if text.count(old) != 1:
        raise SystemExit(f"bench: envoy/envoy.yaml holds {old!r} {text.count(old)} times, not once")
    return text.replace(old, new)


def lines_of(path, since):
    """The log's lines that began after an instant: start, milliseconds, path. Envoy writes its
    logs every ten seconds, so this waits until it has."""
    size = -1
    while size != os.path.getsize(path):
        size = os.path.getsize(path)
        time.sleep(11)
    with open(path) as file:
        rows = [line.split() for line in file]
    rows = [(float(at), int(us) / 1000, path) for at, us, path in rows if us != "-"]
    return sorted(row for row in rows if row[0] >= since)


def within(rows, window):
    return [row for row in rows if window[0] <= row[0] <= window[1]]


def measure_warm(results):
    gateway, admin_url = Gateway(os.environ["GATEWAY_URL"]), os.environ["ENVOY_ADMIN_URL"]
    key = os.environ["API_KEY"]
    for _ in range(2000):
        gateway.orders(key)
    calls = stat(admin_url, "cluster.keycloak.upstream_rq_total")
    memory = json.loads(admin(admin_url, "/memory"))["allocated"]
    times = [gateway.orders(key) for _ in range(WARM_REQUESTS)]
    grown = int(json.loads(admin(admin_url, "/memory"))["allocated"]) - int(memory)
    results["warm_requests"] = WARM_REQUESTS
    results["warm_p50_ms"] = statistics.median(times)
    results["warm_p99_ms"] = percentile(times, 0.99)
    results["warm_keycloak_calls"] = stat(admin_url, "cluster.keycloak.upstream_rq_total") - calls
    results["warm_memory_growth_bytes"] = grown


def measure_refresh(results, gateway, logs, key):
    """A request whose key was verified before: what it costs beyond Keycloak's two answers."""
    gateway.orders(key)
    windows = []
    for _ in range(REFRESHES):
        time.sleep(1.05)
        windows.append((time.time(), gateway.orders(key), time.time()))
    rows = [row for row in lines_of(logs["keycloak"], windows[0][0]) if "certs" not in row[2]]
    calls = [within(rows, (start, end)) for start, _, end in windows]
    own = [elapsed - sum(ms for _, ms, _ in made) for (_, elapsed, _), made in zip(windows, calls)]
    results["refresh_p50_ms"] = statistics.median(elapsed for _, elapsed, _ in windows)
    results["refresh_keycloak_calls"] = statistics.median(len(made) for made in calls)
    results["refresh_own_p50_ms"] = statistics.median(own)


def measure_first_use(results, gateway, logs):
    gateway.orders(os.environ["SERVICE_API_KEY"])  # So that the service token is there.
    keys = [new_key(number) for number in range(FIRST_USES)]
    windows = [(time.time(), gateway.orders(key), time.time()) for key in keys]
    rows = [row for row in lines_of(logs["yield"], windows[0][0]) if row[2] == "/yield"]
    turns = [within(rows, (start, end)) for start, _, end in windows]
    calls = [row for row in lines_of(logs["keycloak"], windows[0][0]) if "certs" not in row[2]]
    grants = [within(calls, (start, end))[-1] for start, _, end in windows]
    results["signing_and_turn_p50_ms"] = statistics.median(
        (grant[0] - made[-1][0]) * 1000 for grant, made in zip(grants, turns))
    # From one yield's arrival to the next: a slice (or a signature), and the way there and back.
    # After the last one both assertions are signed, until Keycloak is called for the grant.
    gaps = [(b[0] - a[0]) * 1000 for made in turns for a, b in zip(made, made[1:])]
    results["first_use_p50_ms"] = statistics.median(elapsed for _, elapsed, _ in windows)
    results["first_use_max_ms"] = max(elapsed for _, elapsed, _ in windows)
    results["first_use_turns"] = statistics.median(len(made) for made in turns)
    results["slice_and_turn_p50_ms"] = statistics.median(gaps)
    results["slice_and_turn_p99_ms"] = percentile(gaps, 0.99)
    results["slice_and_turn_max_ms"] = max(gaps)


def main():
    results = {"wasm_bytes": os.path.getsize(os.environ["WASM_FILE"])}
    measure_warm(results)
    base = int(os.environ["BENCH_PORT"])
    names = ["GATEWAY_PORT", "SERVICE_PORT", "YIELD_PORT", "ENVOY_ADMIN_PORT", "TAP_PORT"]
    ports = {name: base + at for at, name in enumerate(names)}
    logs = start_tapped_gateway(ports)
    try:
        gateway = Gateway(f"http://127.0.0.1:{ports['GATEWAY_PORT']}")
        measure_first_use(results, gateway, logs)
        measure_refresh(results, gateway, logs, os.environ["API_KEY"])
    finally:
        subprocess.run([os.path.join(ROOT, "scripts/envoy.sh"), "stop", "bench"], check=False)
    for name, value in results.items():
        print(f"{name:28} {value:>12.3f}" if isinstance(value, float) else f"{name:28} {value:>12}")
    with open(sys.argv[1], "w") as file:
        json.dump(results, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
