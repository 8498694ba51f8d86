#!/usr/bin/env python3
"""The demo application: shows the caller its own identity, and its request as it arrived.

It is behind a validator of JWTs (Envoy's jwt_authn), so it reads the token's claims without
checking a signature. It uses only Python's standard library, so it needs no installation.

GET /orders   200, JSON: subject, username, headers (as this service saw them)
GET /healthz  200
"""

import argparse
import base64
import json
import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def text(value):
    """A header's value as text; bytes that are not UTF-8 show as escapes instead of failing."""
    return value.encode("latin-1").decode("utf-8", "backslashreplace")


def claims(authorization):
    """The claims of a Bearer JWT, or None."""
    scheme, _, token = authorization.partition(" ")
    parts = token.strip().split(".")
    if scheme.lower() != "bearer" or len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        found = json.loads(payload)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One packet for an answer: head and body apart would wait for each other (Nagle).
    wbufsize = -1
    timeout = 75

    def do_GET(self):
        if not self.drop_body():
            return
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self.answer(200, {"status": "up"})
        elif path == "/orders":
            self.orders()
        else:
            self.answer(404, {"error": f"there is no {path} here; try /orders"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def orders(self):
        token = claims(self.headers.get("authorization", ""))
        if token is None:
            self.answer(401, {"error": "no Bearer JWT; is the validator in front of this service?"})
            return
        headers = {}
        for name, value in self.headers.items():
            name, value = name.lower(), text(value)
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.answer(
            200,
            {
                "subject": token.get("sub"),
                "username": token.get("preferred_username"),
                "headers": headers,
            },
        )

    def drop_body(self):
        """Reads the body, so that the next request on this connection starts at its first byte."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            while size := int(self.rfile.readline(64).partition(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline(65536).strip():
                pass
            return True
        try:
            left = int(self.headers.get("content-length", 0))
        except ValueError:
            self.send_error(400)
            return False
        while left > 0 and (chunk := self.rfile.read(min(left, 65536))):
            left -= len(chunk)
        return True

    def answer(self, status, value):
        body = json.dumps(value, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Logs nothing: the gateway's access log has each request."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    # A gateway restarts faster than its old connections time out.
    allow_reuse_address = True

    def process_request(self, request, client_address):
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().process_request(request, client_address)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default=os.environ.get("DEMO_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("DEMO_PORT", "8002")))
    options = parser.parse_args()
    with Server((options.host, options.port), Handler) as server:
        print(f"listening on {options.host}:{options.port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
