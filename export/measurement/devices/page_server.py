"""A web server on the loopback address, for the page that measures models."""

import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm"}
# With these headers a page may use threads, and its clock ticks every 5 microseconds instead of every 100.
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class PageServer:
    """A running web server that serves files of folders and models from memory, to this machine only.

    Args:
        folders: the start of a path -> the folder whose files are served there. "/" is the folder of index.html.

    Attributes:
        url: the address of index.html.
    """

    def __init__(self, folders: Mapping[str, Path]):
        self.models: dict[str, bytes] = {}
        page_server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = unquote(urlsplit(self.path).path)
                content = page_server.models.get(path)
                if content is None:
                    content = _content(folders, path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Type", TYPES.get(Path(path).suffix or ".html", "application/octet-stream"))
                self.send_header("Content-Length", str(len(content or b"")))
                for name, value in ISOLATION.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *arguments):
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def add(self, content: bytes) -> str:
        """Serve a model, and return its path. The path cannot be guessed, because any program on this machine could ask."""
        path = f"/models/{secrets.token_hex(16)}"
        self.models[path] = content
        return path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _content(folders: Mapping[str, Path], path: str) -> bytes | None:
    """Return the file at a path, or None if there is none below the folders."""
    start = max((each for each in folders if path.startswith(each)), key=len)
    folder = folders[start].resolve()
    file = (folder / (path[len(start) :].lstrip("/") or "index.html")).resolve()
    return file.read_bytes() if file.is_relative_to(folder) and file.is_file() else None
