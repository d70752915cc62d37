"""The collector: who may speak to it, what it keeps, shows and prints, how it ends."""

from __future__ import annotations

import ast
import json
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

import ringdispatch
from collector_side import Collecting, ask, collecting
from ringdispatch import BackgroundDispatcher
from serving import DIRECT
from subprocesses import needs_signals

pytestmark = needs_signals  # it is ended by one

FILES = Path(ringdispatch.__file__).parent / "_collector"
PAGES = ["/", "/page.css", "/page.js", "/icon.svg"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Collecting]:
    with collecting("--quiet") as collector:
        yield collector
        assert collector.end() == (0, collector.first_line, "")


# ---- who may speak to it


HOSTS = ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "", "[::1]"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_name_that_was_pointed_here_is_refused(
    shared: Collecting, method: str, host: str
) -> None:
    before = shared.view()["posts"]
    headers = {"Host": host.format(port=shared.port)}
    answer = shared.ask(method, "/", b"[1]", headers)
    assert answer.status == 403
    assert answer.body.startswith(b"Host '")
    assert answer.body.count(b"\n") == 1
    assert shared.view()["posts"] == before


def test_its_own_names_are_taken_and_no_host_or_two_are_not(shared: Collecting) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        answer = shared.ask("GET", "/", headers={"Host": f"{name}:{shared.port}"})
        assert answer.status == 200, name
    host = b"Host: 127.0.0.1:%d\r\n" % shared.port
    for hosts in (b"", host + b"Host: evil.example\r\n"):
        text = b"GET / HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n"
        assert shared.exchange(text).startswith(b"HTTP/1.1 403 "), hosts
    text = b"GET http://evil.example/ HTTP/1.1\r\n" + host + b"\r\n"
    assert shared.exchange(text).startswith(b"HTTP/1.1 400 ")


ORIGINS = [
    "http://evil.example",
    "http://localhost:1",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "null",
    "",
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_other_sites_are_refused(
    shared: Collecting, method: str, origin: str
) -> None:
    before = shared.view()["posts"]
    headers = {"Origin": origin.format(port=shared.port)}
    answer = shared.ask(method, "/", b"[1]", headers)
    assert answer.status == 403
    assert answer.body.startswith(b"Origin '")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert shared.view()["posts"] == before


def test_its_own_page_is_answered_and_nobody_gets_cors(shared: Collecting) -> None:
    for name in ("127.0.0.1", "localhost"):
        headers = {"Origin": f"http://{name}:{shared.port}"}
        answers = [
            shared.ask("GET", "/entries?after=0", headers=headers),
            shared.ask("POST", "/", b"[1]", headers),
        ]
        assert [each.status for each in answers] == [200, 204]
        for answer in answers:
            assert not [n for n in answer.headers if n.startswith("access-control")]


@pytest.mark.skipif(sys.platform != "linux", reason="other addresses of loopback")
def test_it_listens_on_one_address_alone(shared: Collecting) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", shared.port), timeout=5)


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"]
)
def test_other_methods_are_refused_and_the_connection_goes_on(
    shared: Collecting, method: str
) -> None:
    connection = shared.connect()
    answer = ask(connection, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    before = connection.sock
    assert ask(connection, "POST", "/", b"[1]").status == 204
    assert connection.sock is before
    connection.close()


# ---- the page


@pytest.mark.parametrize("path", PAGES)
def test_the_page_has_nothing_from_elsewhere_and_nothing_inline(
    shared: Collecting, path: str
) -> None:
    answer = shared.ask("GET", path)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    text = answer.body.decode()
    assert set(re.findall(r"https?://[\w.]*", text)) <= {"http://www.w3.org"}
    assert not re.search(r"<style|<script>|\son\w+=|\sstyle=|@import|url\(", text)
    head = shared.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.body))


def test_what_comes_is_text_to_the_page(shared: Collecting) -> None:
    entry = {
        "message": "<script>alert(1)</script>",
        "é": "<img src=x onerror=alert(2)>",
    }
    path = "/%3Cscript%3E<script>?key=secret"
    assert shared.ask("POST", path, json.dumps([entry])).status == 204
    answer = shared.ask("GET", "/entries?after=0")
    assert answer.headers["content-type"] == "application/json"
    assert b"<" not in answer.body
    shown = json.loads(answer.body)["entries"][0]
    assert json.loads(shown["text"]) == entry
    assert shown["path"] == "/%3Cscript%3E<script>"  # and no query
    script = (FILES / "page.js").read_text(encoding="utf-8")
    assert ".textContent = entry.text" in script
    markup = r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|eval|srcdoc"
    assert not re.search(markup, script)
    policy = answer.headers["content-security-policy"]
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy


def test_only_what_is_new_and_what_contains_the_words(shared: Collecting) -> None:
    before = shared.view()
    for number in range(3):
        body = json.dumps([{"number": number, "name": f"Ärger {number}"}] * 2)
        assert shared.ask("POST", f"/KIND/{number}", body).status == 204
    first = before["total"] + 1

    def numbers(query: str) -> list[int]:
        return [one["number"] - first for one in shared.view(query)["entries"]]

    view = shared.view(f"after={before['total']}")
    assert [one["number"] - first for one in view["entries"]] == [5, 4, 3, 2, 1, 0]
    posts = [one["post"] - before["posts"] for one in view["entries"]]
    assert posts == [3, 3, 2, 2, 1, 1]
    assert (view["total"], view["posts"]) == (first + 5, before["posts"] + 3)
    assert len(view["rates"]) == 60
    assert numbers(f"after={first + 3}") == [5, 4]
    assert numbers("after=9007199254740991") == []
    assert numbers("after=0&contains=" + quote("ÄRgeR 1")) == [3, 2]
    assert numbers("after=0&contains=kind/2") == [5, 4]
    assert numbers("after=0&contains=%3Cnone%3E") == []
    for wrong in ("-1", "x", "9" * 30):
        assert shared.ask("GET", f"/entries?after={wrong}").status == 400
    assert shared.ask("GET", "/elsewhere").status == 404


def test_a_long_entry_is_cut_in_the_page_alone(shared: Collecting) -> None:
    assert shared.post(json.dumps(["ö" * 5_000])).status == 204
    shown = shared.view()["entries"][0]
    assert shown["text"] == '"' + "ö" * 499
    assert shown["left_out"] == 10_002 - 1_000
    assert shared.kept()[-1] == "ö" * 5_000


def test_it_keeps_the_last_hundred_thousand(shared: Collecting) -> None:
    def kept() -> list[int]:
        return [*map(int, shared.ask("GET", "/entries.ndjson").body.split())]

    before = shared.view()["total"]
    for first in (0, 60_000):
        assert shared.post(json.dumps([*range(first, first + 60_000)])).status == 204
    assert kept() == [*range(20_000, 120_000)]
    view = shared.view()
    assert (view["total"] - before, view["kept"]) == (120_000, 100_000)
    assert len(view["entries"]) == 200
    assert view["entries"][0]["number"] == view["total"]
    # More than that in one body.
    lines = "".join(f"{number}\n" for number in range(120_000))
    assert shared.post(lines).status == 204
    assert kept() == [*range(20_000, 120_000)]
    assert shared.view()["total"] - before == 240_000


# ---- what is posted, by those who will


def test_a_dispatcher_with_urllib_posts_to_it(shared: Collecting) -> None:
    def send(entries: list[dict[str, int]]) -> None:
        body = json.dumps(entries).encode()
        with DIRECT.open(urllib.request.Request(shared.url, data=body), timeout=20):
            pass

    before = shared.view()["posts"]
    with BackgroundDispatcher(send, ms_delay=10, max_batch=100) as dispatcher:
        for number in range(1_000):
            dispatcher.enqueue({"order": number})
    assert dispatcher.statistics().dispatched == 1_000
    assert shared.kept()[-1_000:] == [{"order": number} for number in range(1_000)]
    assert shared.view()["posts"] - before == dispatcher.statistics().batches


def test_why_a_batch_was_refused_is_in_the_senders_exception(
    shared: Collecting,
) -> None:
    with pytest.raises(
        urllib.error.HTTPError, match="400: the body is not JSON"
    ) as got:
        DIRECT.open(shared.url, data=b"[1", timeout=20)
    got.value.close()


def test_posts_at_once_are_each_kept_whole_and_together(shared: Collecting) -> None:
    begin = threading.Barrier(8)

    def send(client: int) -> list[int]:
        connection = shared.connect()
        begin.wait(20)
        found = [
            ask(
                connection, "POST", f"/{client}", json.dumps([[client, post]] * 5)
            ).status
            for post in range(20)
        ]
        connection.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        statuses = [status for each in pool.map(send, range(8)) for status in each]
    assert statuses == [204] * 160
    kept = shared.kept()[-800:]
    posts = [kept[at : at + 5] for at in range(0, len(kept), 5)]
    assert len(posts) == 160
    assert all(post == post[:1] * 5 for post in posts)
    for client in range(8):
        own = [post[0][1] for post in posts if post[0][0] == client]
        assert own == [*range(20)]


# ---- the command


def test_ctrl_c_ends_it_cleanly_amid_a_body() -> None:
    with collecting() as collector:
        assert collector.post(b"[1, 2]").status == 204
        refused = collector.ask("GET", "/", headers={"Host": "evil\x9b.example"})
        assert refused.status == 403
        address = ("127.0.0.1", collector.port)
        with socket.create_connection(address) as idle:
            head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{collector.port}\r\n"
            idle.sendall(f"{head}Content-Length: 9\r\n\r\n[1,".encode())
            assert collector.post(b"{}").status == 204
            status, out, err = collector.end()
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"collecting at {collector.url} until Ctrl-C"
    assert lines[-1] == "collected 3 entries in 2 posts"
    assert (
        sum(int(n) for n in re.findall(r"^[\d:]+ (\d+) entr", out, re.MULTILINE)) == 3
    )
    host = r"Host 'evil\x9b.example' is not this collector"
    assert [line for line in lines if f"refused 'GET /': 403, {host}" in line]


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    from ringdispatch import __main__

    monkeypatch.setattr(sys, "argv", ["ringdispatch", *arguments])
    monkeypatch.setattr(__main__, "_leave_cleanly", lambda: None)
    return __main__.main()


def test_a_taken_port_is_named_with_the_option(
    shared: Collecting,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(monkeypatch, "collector", "--port", str(shared.port))
    taken = f"port {shared.port} is taken; name another by --port"
    assert (status, *capsys.readouterr()) == (
        2,
        "",
        f"ringdispatch collector: {taken}\n",
    )


WRONG = [
    (["collector", "--port", "x"], "--port: 'x': must be an integer from 0 to 65535"),
    (["collector", "--port", "65536"], "must be an integer from 0 to 65535"),
    (["collector", "--port=-1"], "must be an integer from 0 to 65535"),
    (["collector", "elsewhere"], "unrecognized arguments: elsewhere; --help lists"),
    (["collect"], "'collect' is no command: name collector, relay, spool or tune"),
    ([], "'' is no command: name collector, relay, spool or tune"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_bad_options_are_one_line_and_status_2(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(monkeypatch, *arguments)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_help_names_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, "--help") == 0
    assert {"collector", "spool", "tune"} <= set(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match="0"):
        main(monkeypatch, "collector", "--help")
    assert "--quiet" in capsys.readouterr().out


def test_it_needs_nothing_but_the_standard_library() -> None:
    imported = set()
    for path in FILES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    assert {"http", "json"} <= imported <= sys.stdlib_module_names


def test_what_reads_its_lines_may_end() -> None:
    with collecting() as collector:
        process = collector.process
        assert process.stdout is not None
        process.stdout.close()
        assert collector.post(b"[1]").status == 204
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""
