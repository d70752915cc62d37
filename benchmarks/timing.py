"""Times a call, by one thread and by several at once."""

import threading
import time
from collections.abc import Callable
from typing import Any

from peer import Peer

THREADS = 4
ROOM = {1: 65_536, THREADS: 262_144}
ROUND_SECONDS = {1: 0.3e-3, THREADS: 4e-3}
FULL = 1_024

Loop = Callable[[], None]


class Crew:
    """Threads that wait, and run a loop each on demand, all at once."""

    def __init__(self, loops: list[Loop]) -> None:
        self._barrier = threading.Barrier(len(loops) + 1)
        self._ended = False
        self._threads = [
            threading.Thread(target=self._work, args=(loop,), daemon=True)
            for loop in loops
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, loop: Loop) -> None:
        try:
            while True:
                self._barrier.wait()
                if self._ended:
                    return
                loop()
                self._barrier.wait()
        except threading.BrokenBarrierError:
            return
        except BaseException:
            self._barrier.abort()
            raise

    def run(self) -> None:
        """Have each run its loop once, and wait for the last."""
        self._barrier.wait()
        self._barrier.wait()

    def end(self) -> None:
        """Let the threads end."""
        self._ended = True
        if not self._barrier.broken:
            self._barrier.wait()
        for thread in self._threads:
            thread.join()


def calls_to_a_round(peer: Peer, threads: int, *, full: bool) -> int:
    """How many calls a thread makes in a round: for some time, while there is room."""
    trial = 50
    loop = peer.loop(trial)
    fastest = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        loop()
        fastest = min(fastest, time.perf_counter() - start)
        if not full:
            peer.drain()
    wanted = int(ROUND_SECONDS[threads] / threads / (fastest / trial))
    return max(10, min(wanted, ROOM[threads] // threads - 1))


def price(
    kind: type[Peer], threads: int, *, full: bool, rounds: int, benchmark: Any
) -> list[float]:
    """Nanoseconds of a call in each round, the loop around it included.

    Raises:
        ImportError: the peer is not installed.
    """
    peer = kind(FULL if full else ROOM[threads])
    crew = None
    try:
        if full:
            peer.fill(FULL)
        calls = calls_to_a_round(peer, threads, full=full)
        target = peer.loop(calls)
        if threads > 1:
            crew = Crew([peer.loop(calls) for _ in range(threads)])
            target = crew.run
        benchmark.pedantic(
            target,
            setup=None if full else peer.drain,
            rounds=rounds,
            warmup_rounds=3,
        )
    finally:
        if crew is not None:
            crew.end()
        peer.close()
    if benchmark.stats is None:  # --benchmark-disable
        return []
    # Rounds differ in calls from run to run; what is saved and compared is one call's.
    took = benchmark.stats.stats.data
    took[:] = [seconds / calls / threads for seconds in took]
    return [1e9 * seconds for seconds in took]
