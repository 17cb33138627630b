"""The dashboard over HTTP: see minidask/dashboard/server.py. A real browser is in tests/dashboard/browser.js."""

from __future__ import annotations

import http.client
import importlib.resources
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import minidask
from minidask.dashboard import server as server_module
from minidask.dashboard.metrics import exposition
from minidask.dashboard.server import Dashboard, DashboardServer
from minidask.errors import SchedulerLost
from tests.helpers import wait_until

from .fakes import FakeCluster, event


@pytest.fixture
def server() -> Iterator[DashboardServer]:
    dashboard = Dashboard(lambda task: f"task {task} waits", exposition)
    cluster = FakeCluster(1000.0)
    dashboard.model.take(cluster.begin())
    dashboard.model.take(cluster.step())
    dashboard.model.tick(cluster.now)
    with DashboardServer("127.0.0.1", 0, dashboard) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield serving
        dashboard.ended.set()
        serving.shutdown()
        thread.join()


def get(server: DashboardServer, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def read(answer: http.client.HTTPResponse) -> bytes:
    with answer:
        return answer.read()


def bearer(server: DashboardServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.dashboard.token}"}


@pytest.mark.parametrize("path", ["/", "/page.js", "/stream?page=now", "/task?key=t1", "/metrics", "/nothing"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer no"}, {"Cookie": "a=b; ;;=\x01"}])
def test_nobody_gets_anything_without_the_token(server: DashboardServer, path: str, headers: dict[str, str]) -> None:
    for wrong in ("", "token=x", "token="):
        answer = get(server, path + ("&" if "?" in path else "?") + wrong, **headers)
        assert answer.status == 403
        assert b"machine" not in read(answer)


def test_the_link_sets_a_cookie_that_opens_all_and_the_address_is_then_without_the_token(
    server: DashboardServer,
) -> None:
    answer = get(server, f"/?token={server.dashboard.token}")
    assert (answer.status, answer.headers["Location"]) == (303, "./")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    read(answer)
    page = get(server, "/", Cookie=cookie.partition(";")[0])
    assert page.status == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert b"<title>minidask" in read(page)


def test_the_page_is_small_and_asks_nobody_else() -> None:
    files = list(importlib.resources.files("minidask.dashboard").joinpath("page").iterdir())
    assert {file.name for file in files} == {name for name, _ in server_module.FILES.values()}
    assert sum(len(file.read_bytes()) for file in files) < 150_000
    for file in files:
        text = file.read_text()
        assert "http://" not in text and "https://" not in text
        assert not any(
            word in text for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        )


def first(answer: http.client.HTTPResponse) -> dict[str, Any]:
    line = answer.readline()
    while line and not line.startswith(b"data: "):
        line = answer.readline()
    assert line, f"the stream has ended, {answer.status}"
    return json.loads(line.removeprefix(b"data: "))


@pytest.mark.parametrize("page", ["now", "tasks", "time", "data", "log", "unheard-of"])
def test_a_stream_begins_with_all_and_goes_on_with_what_changes(server: DashboardServer, page: str) -> None:
    with get(server, f"/stream?page={page}", **bearer(server)) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert len(first(answer)["machines"]["set"]) == 2
        with server.dashboard.lock:
            server.dashboard.model.take([event("machine", 2.0, machine="tcp://m9", name="m9", size=1)])
            server.dashboard.model.tick(2.0)
        update = first(answer)
        assert set(update["machines"]["set"]) == {"tcp://m9"} and "all" not in update["machines"]


def test_viewers_have_a_number_and_who_leaves_gives_room(
    server: DashboardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.dashboard, "viewers", threading.BoundedSemaphore(1))
    monkeypatch.setattr(server_module, "SECONDS", 0.02)
    monkeypatch.setattr(server_module, "ALIVE_SECONDS", 0.0)
    with get(server, "/stream", **bearer(server)) as one:
        first(one)
        assert get(server, "/stream", **bearer(server)).status == 503
    one.close()

    def has_room() -> bool:
        with get(server, "/stream", **bearer(server)) as another:
            return another.status == 200

    wait_until(has_room, "the one that has left gave room")


def test_a_story_says_why_a_task_waits(server: DashboardServer) -> None:
    server.dashboard.model.take([event("submitted", 1.0, task=70, name="fit")])
    story = json.loads(read(get(server, "/task?key=t70", **bearer(server))))
    assert (story["state"], story["why"]) == ("waiting", "task 70 waits")
    assert json.loads(read(get(server, "/task?key=t71", **bearer(server)))) is None
    assert json.loads(read(get(server, "/task", **bearer(server)))) is None


def test_a_story_is_told_though_the_scheduler_is_lost(server: DashboardServer) -> None:
    def explain(task: int) -> str:
        raise SchedulerLost("gone")

    server.dashboard.explain = explain
    server.dashboard.model.take([event("submitted", 1.0, task=70, name="fit")])
    assert "gone" in json.loads(read(get(server, "/task?key=t70", **bearer(server))))["why"]


def test_prometheus_gets_its_text_or_what_to_install(server: DashboardServer) -> None:
    answer = get(server, "/metrics", **bearer(server))
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"minidask_machines 2.0" in read(answer)
    server.dashboard.metrics = None
    answer = get(server, "/metrics", **bearer(server))
    assert answer.status == 501 and b"minidask[dashboard]" in read(answer)


@pytest.mark.parametrize(
    "request_line", [b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"\0\xff\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_request_ends_its_own_connection_only(server: DashboardServer, request_line: bytes) -> None:
    import socket

    with socket.create_connection(server.server_address[:2], 20) as connection:  # type: ignore[arg-type]
        connection.sendall(request_line)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass
    assert get(server, "/", **bearer(server)).status == 200


# --- a client's own ---


def test_a_client_shows_its_dashboard_which_ends_with_it() -> None:
    with minidask.Client(n_workers=1) as client:
        link = client.dashboard(port=0)
        assert client.dashboard() == link, "there is one"
        assert link in repr(client)
        assert "token" not in client._repr_html_().partition("<a ")[0]
        assert f'href="{link}"' in client._repr_html_()
        address, _, token = link.removeprefix("http://").partition("/?token=")
        client.submit(abs, -1).result(20)

        def ended() -> int:
            connection = http.client.HTTPConnection(address, timeout=20)
            connection.request("GET", f"/stream?page=now&token={token}")
            with connection.getresponse() as answer:
                totals = first(answer)["totals"].get("set", {"all": {}})["all"]  # none before the first tick
            return int(totals.get("finished", 0))

        wait_until(lambda: ended() > 0, "the dashboard showed the task")
        process = client._dashboard
    assert process is not None and not process.running


def test_bad_ports_are_refused_where_they_are_passed(client: minidask.Client) -> None:
    for bad in (70_000, -1):
        with pytest.raises(ValueError, match="port"):
            client.dashboard(port=bad)
    with pytest.raises(TypeError):
        client.dashboard(port="8787")  # type: ignore[arg-type]


def test_a_dashboard_that_cannot_begin_says_why(client: minidask.Client, server: DashboardServer) -> None:
    with pytest.raises(minidask.errors.MinidaskError, match="in use"):
        client.dashboard(port=server.server_address[1])
