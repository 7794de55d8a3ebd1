"""A server as a process of its own: answers each chat with two tokens.

Its only model is called as it was told to spin. Only the standard library: it stands for peers in
environments of their own.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = os.environ.get("GOMP_SPINCOUNT", "as it likes")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": NAME}]}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        deltas: list[tuple[str | None, str | None]] = [("Hel", None), ("lo", None), (None, "stop")]
        events = [
            {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}
            for text, reason in deltas
        ]
        self._send("".join(f"data: {json.dumps(event)}\n\n" for event in events).encode())

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
