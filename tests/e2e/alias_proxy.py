"""Stands before a Stoa API and renames what a public test suite cannot be told: its API key and the vendors' model names.

Everything else passes unchanged, byte for byte. usage: alias_proxy.py BASE_URL KEY MODEL  (prints its own base URL)"""

import http.client
import json
import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

base, key, model = sys.argv[1:4]
upstream = urllib.parse.urlsplit(base)
HOP = {"connection", "transfer-encoding", "content-length", "host", "authorization"}


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def forward(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            parsed = json.loads(body)
            if isinstance(parsed, dict) and isinstance(parsed.get("model"), str):
                parsed["model"] = model
                body = json.dumps(parsed).encode()
        except ValueError:
            pass
        path = re.sub(r"^/v1/models/[^/]+$", "/v1/models/" + urllib.parse.quote(model), self.path)
        headers = {n: v for n, v in self.headers.items() if n.lower() not in HOP}
        headers["authorization"] = f"Bearer {key}"
        connection = http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=60)
        try:
            connection.request(self.command, path, body or None, headers)
            response = connection.getresponse()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            while piece := response.read1(65536):
                self.wfile.write(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The suite closes streams right after their headers.
        finally:
            connection.close()
            self.close_connection = True

    do_GET = do_POST = do_DELETE = forward


server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()  # Ends with whoever started it.
