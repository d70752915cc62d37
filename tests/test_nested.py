"""An opener within another opener of its thread, which is choosing a home.

A signal handler or a finalizer enqueues there. Each snippet does so where the outer
opener is about to start the background thread.
"""

from __future__ import annotations

import textwrap

import pytest

from subprocesses import needs_fork, run_snippet

# `within(number)` runs in the `number`-th call that starts a background thread.
STARTING = """
from ringdispatch._background import _Background
start, starts = _Background.start, []
def start_later(background):
    starts.append(background)
    assert len(starts) < 9, "each starts another"
    within(len(starts))
    start(background)
_Background.start = start_later
got = []
dispatcher = BackgroundDispatcher(got.extend, ms_delay=1)
"""


def run_nested(snippet: str, **options: str) -> list[str]:
    return run_snippet(STARTING + textwrap.dedent(snippet), **options).lines


@pytest.mark.parametrize("before", ["no home", "a closed loop", "a stopped loop"])
def test_nested_openers_start_no_thread_and_go_out_with_the_outer_one(
    before: str,
) -> None:  # C18
    run_nested(
        f"""
        def within(number):
            for n in range(3):
                assert dispatcher.enqueue((number, n))
        async def main():
            dispatcher.enqueue("first")
            assert await dispatcher.aflush()
        loop = asyncio.new_event_loop()
        if {before!r} != "no home":
            loop.run_until_complete(main())
            got.clear()
        if {before!r} == "a stopped loop":
            dispatcher.enqueue("second")
            outer = dispatcher.flush
        else:
            loop.close()
            outer = lambda: dispatcher.enqueue("second")
        assert outer()
        eventually(lambda: len(got) == 4)
        assert sorted(got, key=str) == [(1, 0), (1, 1), (1, 2), "second"], got
        assert len(starts) == 1
        assert dispatcher.close()
        loop.close()
        """
    )


def test_nested_opener_at_any_line_of_the_outer_one_is_served() -> None:  # C18
    """Nothing but the two entries makes anything go out."""
    run_snippet(
        """
        import itertools
        import ringdispatch
        from ringdispatch import _background
        _background._IDLE_SECONDS = 0.0
        package = os.path.dirname(ringdispatch.__file__)
        def trace(frame, event, _):
            if not frame.f_code.co_filename.startswith(package):
                return None
            lines[0] += event == "line"
            if event == "line" and lines[0] == number:
                assert dispatcher.enqueue("nested")
            return trace
        for number in itertools.count(1):
            got, lines = [], [0]
            dispatcher = BackgroundDispatcher(got.extend, ms_delay=1)
            sys.settrace(trace)
            assert dispatcher.enqueue("outer")
            sys.settrace(None)
            reached = lines[0] >= number
            eventually(lambda: len(got) == 1 + reached)
            assert threading.active_count() <= 4, threading.enumerate()
            assert dispatcher.close()
            eventually(lambda: threading.active_count() == 1)
            if not reached:
                break
        assert number > 40, number
        """,
        debug=False,
    )


@pytest.mark.parametrize("call", ["flush", "close"])
def test_flush_and_close_within_the_choice_of_a_home_choose_for_themselves(
    call: str,
) -> None:  # C15, C18
    """The outer opener, which is to start the thread, waits for them."""
    run_nested(
        f"""
        def within(number):
            if number == 1:
                assert dispatcher.enqueue("nested")
                assert dispatcher.{call}(timeout=None)
                assert got == ["outer", "nested"], got
        assert dispatcher.enqueue("outer")
        assert len(starts) == 2
        assert dispatcher.close()
        """
    )


def test_aflush_on_a_loop_within_the_choice_of_a_home_ends() -> None:  # C15, C18
    run_nested(
        """
        async def flush():
            dispatcher.enqueue("nested")
            return await dispatcher.aflush(timeout=None)
        def within(number):
            if number == 1:
                assert asyncio.run(flush())
                assert got == ["outer", "nested"], got
        assert dispatcher.enqueue("outer")
        assert dispatcher.close()
        """
    )


@pytest.mark.parametrize("other", ["thread", "dispatcher"])
def test_choice_of_a_home_holds_up_no_other_thread_and_no_other_dispatcher(
    other: str,
) -> None:  # C18
    run_nested(
        f"""
        others = []
        other = BackgroundDispatcher(others.extend, ms_delay=1)
        def within(number):
            if number == 1 and {other!r} == "dispatcher":
                assert other.enqueue("nested")
                eventually(lambda: others == ["nested"])
            elif number == 1:
                thread = threading.Thread(target=dispatcher.enqueue, args=("thread",))
                thread.start()
                thread.join()
                eventually(lambda: got == ["outer", "thread"])
        assert dispatcher.enqueue("outer")
        eventually(lambda: "outer" in got)
        assert dispatcher.close() and other.close()
        """
    )


@pytest.mark.parametrize("times", [1, 2])
def test_nested_opener_whose_handler_raises_is_not_stranded(times: int) -> None:  # C20
    """Raised once, the outer opener tries again; twice, the next one does."""
    run_nested(
        f"""
        def within(number):
            if number <= {times}:
                assert dispatcher.enqueue(number)
                raise KeyboardInterrupt
        interrupted = False
        try:
            dispatcher.enqueue("outer")
        except KeyboardInterrupt:
            interrupted = True
        assert interrupted
        assert len(starts) == 2
        expected = ["outer", *range(1, {times} + 1)]
        if {times} == 2:
            assert dispatcher.pending == 3
            assert dispatcher.enqueue("next")
            expected.append("next")
        eventually(lambda: got == expected)
        assert dispatcher.close()
        """
    )


@needs_fork
def test_child_of_a_fork_within_the_choice_of_a_home_chooses_one() -> None:  # C17
    lines = run_nested(
        """
        def within(number):
            child = number == 1 and os.fork()
            if child == 0 and number == 1:
                assert dispatcher.enqueue("child")
                eventually(lambda: got == ["child"])
                say(*got)
                os._exit(0)
            if child:
                assert os.waitpid(child, 0)[1] == 0
        assert dispatcher.enqueue("parent")
        eventually(lambda: got == ["parent"])
        assert dispatcher.close()
        """
    )
    assert lines == ["child"]
