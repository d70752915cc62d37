"""The option `spool`: what it refuses, and what it says of its place."""

from __future__ import annotations

import errno
import gc
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records
from ringdispatch import _ring_files as ring_files
from ringdispatch import _spool as spools_of_the_package
from spools import needs_spools
from subprocesses import run_snippet

pytestmark = needs_spools


async def send(batch: Any) -> None: ...


def spooled(
    place: object, name: str | None = "audit", **options: Any
) -> BackgroundDispatcher[Any]:
    layout = Bytes(spool=place, **options.pop("bytes", {}))  # type: ignore[arg-type]
    return BackgroundDispatcher(send, ms_delay=10, name=name, layout=layout, **options)


def test_spool_is_only_for_bytes() -> None:
    pytest.importorskip("numpy")
    with pytest.raises(ValueError, match="spool='here': Objects can't outlive"):
        Objects(spool="here")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"spool='here': Records .* Bytes\(encode"):
        Records([("number", "u4")], spool="here")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"spool": 3}, TypeError, "spool=3: must be the path of a directory"),
        ({"spool": b"here"}, TypeError, "spool=b'here': must be the path"),
        ({"spool": ""}, ValueError, "spool='': must be the path"),
        ({"spool": "a\0b"}, ValueError, "spool='a.*: must be the path"),
        ({"dead_letters": 1}, TypeError, "dead_letters=1: must be a bool"),
        ({"separator": b"-" * 257}, ValueError, "separator=.* at most 256 bytes"),
        ({"max_bytes": 2**31 + 1}, ValueError, "max_bytes=2147483649: must be <= 2147"),
    ],
)
def test_wrong_options_of_the_layout_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:  # C12
    with pytest.raises(error, match=words):
        Bytes(**{"spool": "here", **options})


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_files, "SUPPORTED", False)
    with pytest.raises(ValueError, match="spool='here': only Linux has spools so far"):
        Bytes(spool="here")
    assert Bytes().spool is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_full": "drop_oldest"}, "on_full='drop_oldest': must be 'drop_newest' or"),
        ({"capacity": 2**26 + 1}, "capacity=67108865: must be <= 67108864"),
        ({"name": "a/b"}, "name='a/b': must be the name of a directory"),
    ],
)
def test_wrong_options_of_the_dispatcher_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:  # C12
    with pytest.raises(ValueError, match=words):
        spooled(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below", "/proc/nowhere"):
        with pytest.raises(OSError, match=r"spool=.*: must be a directory") as raised:
            spooled(place)
        assert f"spool={os.fspath(place)!r}" in str(raised.value)
    (tmp_path / "audit").touch()
    with pytest.raises(FileExistsError, match=str(tmp_path / "audit")):
        spooled(tmp_path)


def test_a_place_that_is_not_ours_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"spool=.*: must be ours to write"):
        spooled(tmp_path)


def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools_of_the_package, "filesystem", lambda path: 0x6969)
    with pytest.raises(ValueError, match=r"spool=.*: is on NFS: choose"):
        spooled(tmp_path)


def test_a_full_disk_is_an_error_of_the_constructor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(spools_of_the_package, "allocate", allocate)
        with pytest.raises(OSError, match=r"no room for a file of .* smaller max_byt"):
            spooled(tmp_path)
    assert list((tmp_path / "audit").iterdir()) == []
    assert spooled(tmp_path).close()  # and the name is free


def test_a_second_dispatcher_of_one_name_is_refused(tmp_path: Path) -> None:
    first = spooled(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for place in (tmp_path, tmp_path / "link"):
        with pytest.raises(ValueError, match="name='audit': another dispatcher has"):
            spooled(place)
    other = spooled(tmp_path, "other")
    elsewhere = spooled(tmp_path / "elsewhere")
    assert first.enqueue(b"it goes on")
    assert first.close()
    second = spooled(tmp_path)
    with first:
        assert not first.enqueue(b"the name is another's now")
    del second
    gc.collect()
    third = spooled(tmp_path)
    assert third.enqueue(b"entry")
    for dispatcher in (other, elsewhere, third):
        assert dispatcher.close()
    assert list(tmp_path.rglob("*.spool")) == []


def test_a_place_that_others_may_write_to_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spooled(tmp_path).close()
    assert caplog.messages == []
    tmp_path.chmod(0o777)
    dispatcher = spooled(tmp_path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "ringdispatch[audit]" in record.getMessage()
    assert f"{tmp_path}: others may write to it (mode 0777)" in record.getMessage()
    assert dispatcher.enqueue(b"entry")
    assert dispatcher.close()
    assert len(caplog.records) == 1


def test_the_constructor_removes_files_that_hold_nothing(tmp_path: Path) -> None:
    run_snippet(
        f"""
        from ringdispatch import Bytes
        async def send(batch): ...
        layout = Bytes(spool={str(tmp_path)!r})
        dispatcher = BackgroundDispatcher(send, ms_delay=1, name="audit", layout=layout)
        os._exit(0)
        """
    )
    (empty,) = tmp_path.rglob("*.spool")
    dispatcher = spooled(tmp_path)
    (own,) = tmp_path.rglob("*.spool")
    assert own != empty
    assert dispatcher.close()


def test_modules_of_the_spool_are_loaded_where_it_is_given() -> None:
    outcome = run_snippet(
        """
        from ringdispatch import Bytes
        def loaded():
            ours = {name for name in sys.modules if name.startswith("ringdispatch._")}
            return sorted(each for each in ours if "spool" in each or "files" in each)
        async def send(batch): ...
        dispatcher = BackgroundDispatcher(send, ms_delay=1, layout=Bytes())
        dispatcher.enqueue(b"entry")
        assert dispatcher.close()
        say(loaded())
        Bytes(spool="here")
        say(len(loaded()) > 2)
        """
    )
    assert outcome.lines == ["[]", "True"]
