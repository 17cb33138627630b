"""The dashboard's HTTP server: the page, what a page lacks as server-sent events, stories, figures for Prometheus.

    browser ─ GET /?token=… ─► a cookie        GET /stream?page=now ─► an event each half second, while it is open
                                               GET /task?key=t7 ─► JSON          GET /metrics ─► text

Each connection has a thread of its own: few people look at once. Nothing can be changed from here: all of it is GET.
Whoever asks has to have the token: in the link, in the cookie that the link sets, or as `Authorization: Bearer`.
"""

from __future__ import annotations

import hmac
import http.cookies
import http.server
import importlib.resources
import json
import secrets
import select
import threading
import time
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

from minidask.errors import MinidaskError

from .model import Explain, Model

SECONDS = 0.5
"""Between two updates of a viewer."""
ALIVE_SECONDS = 10.0
"""Between two signs of life, if nothing changes: so a viewer that is gone is noticed."""
MOST_VIEWERS = 50
SOCKET_SECONDS = 30.0
FILES = {"/": ("index.html", "text/html"), "/page.js": ("page.js", "text/javascript"),
         "/stream.js": ("stream.js", "text/javascript"), "/page.css": ("page.css", "text/css")}  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
NO_TOKEN = "This is a dashboard of minidask. Open it with the link that it was started with, which has a token.\n"


class Dashboard:
    """What the server's threads share.

    Args:
        explain: says why a task waits.
        metrics: makes the text for Prometheus of the model; None: the package for it is missing.

    Attributes:
        model: only to be used with `lock`.
        token: what whoever asks has to know.
        ended: set when all streams are to end.
    """

    def __init__(self, explain: Explain, metrics: Callable[[Model], bytes] | None = None) -> None:
        self.model = Model()
        self.lock = threading.Lock()
        self.token = secrets.token_urlsafe(24)
        self.ended = threading.Event()
        self.viewers = threading.BoundedSemaphore(MOST_VIEWERS)
        self.explain = explain
        self.metrics = metrics

    def story(self, key: str) -> dict[str, Any] | None:
        """Return the story of a task, with why it waits."""
        with self.lock:
            found, story = self.model.story(key), self.model.stories.get(key)
        if found is not None and story is not None and story.number and story.state not in ("done", "failed"):
            try:
                found["why"] = self.explain(story.number)
            except MinidaskError as error:
                found["why"] = f"nobody knows now: {error}"
        return found


class DashboardServer(http.server.ThreadingHTTPServer):
    """Serves one dashboard.

    Args:
        host, port: where it listens; port 0: any that is free.

    Raises:
        OSError: it cannot listen there.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, dashboard: Dashboard) -> None:
        self.dashboard = dashboard
        super().__init__((host, port), _Handler)

    def link(self, host: str) -> str:
        """Return the link that opens the dashboard."""
        return f"http://{host}:{self.server_address[1]}/?token={self.dashboard.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone away is no error of ours."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: DashboardServer
    timeout = SOCKET_SECONDS
    server_version = "minidask"
    sys_version = ""
    answers: ClassVar[dict[str, Callable[[_Handler, dict[str, str]], None]]] = {}

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the lines would have the token."""

    @property
    def _cookie(self) -> str:
        """Its name. Cookies know no ports, so it has the port in it."""
        return f"minidask-{self.server.server_address[1]}"

    def do_GET(self) -> None:
        """Answer a request."""
        path, _, query = self.path.partition("?")
        options = dict(urllib.parse.parse_qsl(query, max_num_fields=20)) if query.count("&") < 20 else {}
        if not self._may(options):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", NO_TOKEN.encode())
        elif path == "/" and "token" in options:  # so that it is not in the browser's history, nor on the screen
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", "./")
            cookie = f"{self._cookie}={self.server.dashboard.token}; HttpOnly; SameSite=Lax"
            self.send_header("Set-Cookie", cookie)
            self._headers("text/plain", 0)
        elif path in FILES:
            name, kind = FILES[path]
            self._send(HTTPStatus.OK, kind, importlib.resources.files(__package__).joinpath("page", name).read_bytes())
        elif path == "/stream":
            self._stream(options.get("page", "now"), options.get("q", "")[:200])
        elif path == "/task":
            story = self.server.dashboard.story(options.get("key", "")[:40] or "-")
            self._send(HTTPStatus.OK, "application/json", _json(story))
        elif path == "/metrics":
            self._metrics()
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"There is no such page.\n")

    def _may(self, options: dict[str, str]) -> bool:
        given = [options.get("token", ""), self.headers.get("Authorization", "").removeprefix("Bearer ")]
        try:
            cookies = http.cookies.SimpleCookie(self.headers.get("Cookie", ""))
        except http.cookies.CookieError:
            cookies = http.cookies.SimpleCookie()
        if self._cookie in cookies:
            given.append(cookies[self._cookie].value)
        token = self.server.dashboard.token.encode()
        return any(hmac.compare_digest(one.encode("utf-8", "replace"), token) for one in given)

    def _headers(self, kind: str, length: int | None) -> None:
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self._headers(kind, len(body))
        self.wfile.write(body)

    def _metrics(self) -> None:
        dashboard = self.server.dashboard
        if dashboard.metrics is None:
            text = b"This needs the package prometheus-client: pip install 'minidask[dashboard]'\n"
            self._send(HTTPStatus.NOT_IMPLEMENTED, "text/plain", text)
            return
        with dashboard.lock:
            text = dashboard.metrics(dashboard.model)
        self._send(HTTPStatus.OK, "text/plain; version=0.0.4", text)

    def _stream(self, page: str, query: str) -> None:
        dashboard = self.server.dashboard
        if not dashboard.viewers.acquire(blocking=False):
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"Too many people look at this already.\n")
            return
        try:
            self.send_response(HTTPStatus.OK)
            self._headers("text/event-stream", None)
            self._updates(page, query)
        finally:
            dashboard.viewers.release()

    def _updates(self, page: str, query: str) -> None:
        dashboard, number, before = self.server.dashboard, 0, b""
        told = time.monotonic()
        while True:
            with dashboard.lock:
                update = dashboard.model.update(page, number, query)
            number = update["number"]
            if update.get("tasks") is not None and before == (tasks := _json(update["tasks"])):
                del update["tasks"]
            elif "tasks" in update:
                before = tasks
            if any(value for key, value in update.items() if key != "number"):
                self.wfile.write(b"data: " + _json(update) + b"\n\n")
                told = time.monotonic()
            elif time.monotonic() > told + ALIVE_SECONDS:
                self.wfile.write(b": still here\n\n")
                told = time.monotonic()
            if self._gone(SECONDS) or dashboard.ended.is_set():
                return

    def _gone(self, seconds: float) -> bool:
        """Wait; return whether the viewer has gone meanwhile, which makes room for another one."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.connection], [], [], left)[0] and not self.connection.recv(4096):
                return True
        return False


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
