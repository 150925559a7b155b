"""An endpoint that says what a test tells it to, request by request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.rig import Endpoint

PROMPT_TOKENS, COMPLETION_TOKENS = 10, 3

Said = tuple[int, dict[str, Any]]
Shown = tuple[int, str, bytes]
"""Status, content type and body of what is fetched with GET."""


def says(text: str | None, finish: str = "stop") -> Said:
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
    }
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    return 200, {"id": "x", "model": "scripted", "choices": [choice], "usage": usage}


def refuses(words: str) -> Said:
    return 400, {"error": {"message": words, "type": "invalid_request_error"}}


@dataclass
class Scripted:
    """``script`` is called for each request, on a thread of its own, and may wait."""

    script: Callable[[dict[str, Any]], Said]
    asked: list[dict[str, Any]] = field(default_factory=list)
    base_url: str = ""
    show: Callable[[str], Shown] = lambda path: (404, "text/plain", b"")  # by path; may wait, as ``script`` may
    fetched: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # paths, with the headers of each

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.base_url)


@contextmanager
def scripted(script: Callable[[dict[str, Any]], Said]) -> Iterator[Scripted]:
    told = Scripted(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.asked.append(body)
            status, members = told.script(body)
            sent = json.dumps(members).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_GET(self) -> None:
            told.fetched.append((self.path, dict(self.headers)))
            status, kind, sent = told.show(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if 300 <= status < 400:
                self.send_header("Location", sent.decode())
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            return  # whoever asked was killed

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    told.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
