"""The option `spool`: what it refuses, and what it says of its place."""

from __future__ import annotations

import errno
import gc
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forking import forked
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


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"spool": 3}, TypeError, "spool=3: must be the path of a directory"),
        ({"spool": b"here"}, TypeError, "spool=b'here': must be the path"),
        ({"spool": ""}, ValueError, "spool='': must be the path"),
        ({"spool": "a\0b"}, ValueError, "spool='a.*: must be the path"),
        ({"dead_letters": 1}, TypeError, "dead_letters=1: must be a bool"),
        ({"separator": b"-" * 257}, ValueError, "separator=.* at most 256 bytes"),
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


def objects(place: Path, patch: pytest.MonkeyPatch) -> None:
    Objects(spool=place)  # type: ignore[arg-type]


def records(place: Path, patch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    Records([("number", "u4")], spool=place)  # type: ignore[arg-type]


def drop_oldest(place: Path, patch: pytest.MonkeyPatch) -> None:
    spooled(place, on_full="drop_oldest")


def above_two_gib(place: Path, patch: pytest.MonkeyPatch) -> None:
    Bytes(spool=place, max_bytes=2**31 + 1)


def is_a_file(place: Path, patch: pytest.MonkeyPatch) -> None:
    place.touch()
    spooled(place)


def below_a_file(place: Path, patch: pytest.MonkeyPatch) -> None:
    place.touch()
    spooled(place / "below")


def has_a_file_of_the_name(place: Path, patch: pytest.MonkeyPatch) -> None:
    place.mkdir()
    (place / "audit").touch()
    spooled(place)


def can_not_be_made(place: Path, patch: pytest.MonkeyPatch) -> None:
    spooled("/proc/nowhere")


def on_a_network(place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spools_of_the_package, "filesystem", lambda path: 0x6969)
    spooled(place)


def without_locks(place: Path, patch: pytest.MonkeyPatch) -> None:
    def attach(path: Path) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))

    patch.setattr(spools_of_the_package, "SpoolFile", attach)
    spooled(place)


def without_maps(place: Path, patch: pytest.MonkeyPatch) -> None:
    def attach(path: Path) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(path))

    patch.setattr(spools_of_the_package, "SpoolFile", attach)
    spooled(place)


def beyond_the_free_space(place: Path, patch: pytest.MonkeyPatch) -> None:
    def allocate(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(spools_of_the_package, "allocate", allocate)
    spooled(place)


def larger_than_files_may_be(place: Path, patch: pytest.MonkeyPatch) -> None:
    def allocate(fd: int, size: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    patch.setattr(spools_of_the_package, "allocate", allocate)
    spooled(place)


BAD: list[tuple[Callable[..., None], type[Exception], str]] = [
    (objects, ValueError, "spool=.*: Objects can't outlive"),
    (records, ValueError, r"spool=.*: Records .* Bytes\(encode"),
    (drop_oldest, ValueError, "on_full='drop_oldest': must be 'drop_newest' or"),
    (above_two_gib, ValueError, "max_bytes=2147483649: must be <= 2147483648 with"),
    (is_a_file, FileExistsError, "spool='{place}': must be a directory"),
    (below_a_file, NotADirectoryError, "spool='{place}/below': must be a directory"),
    (has_a_file_of_the_name, FileExistsError, "must be a directory.*'{place}/audit'"),
    (can_not_be_made, OSError, "spool='/proc/nowhere': must be a directory"),
    (on_a_network, ValueError, "spool='{place}': is on NFS: choose a directory on"),
    (without_locks, OSError, "can't lock or map .*: choose .*'{place}/audit'"),
    (without_maps, OSError, "can't lock or map .*: choose .*'{place}/audit'"),
    (beyond_the_free_space, OSError, "no room .* smaller max_bytes .*'{place}/audit'"),
    (larger_than_files_may_be, OSError, "no room .* smaller max_bytes"),
]


@pytest.mark.parametrize(("mistake", "error", "words"), BAD)
def test_bad_input_is_refused_by_its_own_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[..., None],
    error: type[Exception],
    words: str,
) -> None:  # C12
    place = tmp_path / "spool"
    with (
        monkeypatch.context() as patched,
        pytest.raises(error, match=words.format(place=place)),
    ):
        mistake(place, patched)
    assert not [path for path in tmp_path.rglob("*.*") if path.is_file()]
    assert spooled(tmp_path / "other").close()


def test_a_place_that_is_not_ours_to_write_is_refused() -> None:  # C12
    """As another user than root, where it is root that tests."""
    with tempfile.TemporaryDirectory() as given:  # pytest's are for their owner alone
        folder = Path(given)
        folder.chmod(0o755)
        for name in ("ours", "theirs"):
            (folder / name / "audit").mkdir(parents=True)
        (folder / "theirs" / "audit").chmod(0o555)
        (folder / "shared").mkdir()
        (folder / "shared").chmod(0o777)  # as a volume of Kubernetes may be
        outcome = forked(
            f"""
    from ringdispatch import Bytes
    def made(name):
        layout = Bytes(spool=os.path.join({given!r}, name))
        return BackgroundDispatcher(send, ms_delay=1, name="audit", layout=layout)
    assert made("ours").close()  # all is imported
    def body():
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            made("theirs")
        except PermissionError as error:
            say(error)
        shared = made("shared")
        say(oct(os.stat({given!r} + "/shared/audit").st_mode))
        assert shared.close()
    join(child(body))
    """,
            stderr=rf"ringdispatch\[audit\]: {given}/shared: others may write to it "
            r"\(mode 0777\)",
        )
    refused, mode = outcome.lines
    assert f"{given}/theirs': must be ours to write: Permission denied" in refused
    assert mode == "0o40700"


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
    before = os.umask(0)
    try:
        spooled(tmp_path / "made").close()
    finally:
        os.umask(before)
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
    tmp_path.chmod(0o1777)  # where only the owner of a file may remove it
    (tmp_path / "audit").chmod(0o770)
    spooled(tmp_path).close()
    assert f"{tmp_path}/audit: others may write to it (mode 0770)" in caplog.messages[1]
    assert len(caplog.messages) == 2


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
