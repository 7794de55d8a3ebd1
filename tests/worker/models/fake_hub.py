"""A Hugging Face Hub on loopback, with one repository: what `hf_hub_download` asks of the real one."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY_GGUF = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") * 2 + b"rest"


@contextlib.contextmanager
def serving_hub(files: dict[str, bytes], *, damaged: bool = False) -> Iterator[str]:
    """The Hub's URL. `damaged`: it sends other bytes than its headers promise."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            content = self._answer()
            self.wfile.write(content[::-1] if damaged else content)

        def _answer(self) -> bytes:
            content = files.get(self.path.removeprefix("/me/models/resolve/main/"))
            if content is None:
                content = files.get(self.path.removeprefix(f"/me/models/resolve/{COMMIT}/"))
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            return content or b""

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
