"""A real Prometheus reads all hosts' metrics by deploy/observe/prometheus.yml, and gets the same series.

The hosts are made up here. Kong shows tests/observe/kong.prom, which a test holds to the metrics that
there are; Envoy shows the same without Kong's prefix, beside metrics of its own, and those of the module under
its namespace. PROMETHEUS names the
folder of the programs (scripts/prometheus.sh fetch).
"""

import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PREFIX = "pw_apikey_jwt_exchange_"


def kong():
    shown = (ROOT / "tests/observe/kong.prom").read_text()
    return shown + "kong_node_info 1\n"


def envoy():
    shown = (ROOT / "tests/observe/kong.prom").read_text()
    return shown.replace(PREFIX, "") + 'envoy_cluster_upstream_rq{le="x"} 1\n'


def module():
    return envoy().replace("apikey_", "envoy_dynamicmodulescustom_apikey_")


def series():
    """Each series of the filter as its name and labels."""
    for name, labels in re.findall(r"^(apikey_\w+)(?:{(.*)})? 1$", envoy(), re.MULTILINE):
        labels = re.findall(r'(\w+)="([^"]*)"', labels)
        yield name, *sorted((label, "+Inf" if value == "inf" else value) for label, value in labels)


def serve(text):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = text.encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Scrape(unittest.TestCase):
    def test_all_hosts_give_the_same_series(self):
        targets = [f"127.0.0.1:{serve(host())}" for host in (kong, envoy, module)]
        config = (ROOT / "deploy/observe/prometheus.yml").read_text()
        config = config.replace('["127.0.0.1:9901"]', json.dumps(targets))
        config = config.replace("scrape_interval: 15s", "scrape_interval: 1s")
        expected = set(series())
        self.assertGreater(len(expected), 300)
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "prometheus.yml").write_text(config)
            prometheus = subprocess.Popen(
                [
                    os.path.join(os.environ["PROMETHEUS"], "prometheus"),
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=error",
                ]
            )
            try:
                for target in targets:
                    found = self.await_series(port, target, len(expected))
                    self.assertEqual(found, expected, target)
            finally:
                prometheus.terminate()
                prometheus.wait()

    def await_series(self, port, target, count):
        query = urllib.parse.urlencode({"query": f'{{instance="{target}", __name__!~"up|scrape_.*"}}'})
        found, deadline = set(), time.monotonic() + 60
        while time.monotonic() < deadline and len(found) != count:
            time.sleep(0.2)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}") as answer:
                    result = json.load(answer)["data"]["result"]
            except OSError:
                continue
            found = set()
            for one in result:
                labels = one["metric"]
                name = labels.pop("__name__")
                labels = [label for label in labels.items() if label[0] not in ("job", "instance")]
                found.add((name, *sorted(labels)))
        return found


if __name__ == "__main__":
    unittest.main()
