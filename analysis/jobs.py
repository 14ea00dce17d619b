"""A long computation beside its caller: it says how far it is, and stops when it is asked to."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Thread
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
Progress = Callable[[int, int], object]


class Cancelled(Exception):
    """Raised inside a computation at its next step once nobody waits for it any more."""


class Job(Generic[Answer]):
    """`work(progress)` in a thread of its own, from now on.

    The work calls `progress(done, total)` between its steps; that is when it can be cancelled, so a step should be
    short. `told(done, total)` hears of every step and `ended(job)` of the end, whatever it was, both in that thread.
    """

    def __init__(
        self,
        work: Callable[[Progress], Answer],
        *,
        told: Progress | None = None,
        ended: "Callable[[Job[Answer]], object] | None" = None,
    ) -> None:
        self._work, self._told, self._ended = work, told, ended
        self._stop = Event()
        self._future: Future[Answer] = Future()
        self._thread = Thread(target=self._run, name="evssm job", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Asks the work to stop at its next step; returns at once."""
        self._stop.set()

    @property
    def done(self) -> bool:
        """Whether it has ended: with an answer, an error, or because it was cancelled."""
        return self._future.done()

    def result(self, timeout: float | int | None = None) -> Answer:
        """The answer, once it is there; raises what the work raised, and `Cancelled` where it was stopped."""
        return self._future.result(timeout)

    def wait(self, timeout: float | int | None = None) -> None:
        """Returns when the work has ended and `ended` has been told."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._future.set_result(self._work(self._progress))
        except BaseException as error:  # whatever it is, it belongs to whoever asks for the result
            self._future.set_exception(error)
        if self._ended is not None:
            self._ended(self)

    def _progress(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Cancelled(f"stopped after {done} of {total} steps")
        if self._told is not None:
            self._told(done, total)
