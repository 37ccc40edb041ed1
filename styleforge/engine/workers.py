"""The same work for many things side by side, on threads that share the processor's cores."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TypeVar

import torch

Thing, Made = TypeVar("Thing"), TypeVar("Made")
Around = Callable[[], AbstractContextManager[None]]


class Workers:
    """Threads, each with its share of the cores, from `with` to its end; without gradients.

    Small calls wait for each other on several cores, and files and Python leave all but one idle: whole tiles side by
    side do not.

    Args:
        count: of them; with one, all is done where it is asked for.
        around: what each enters for each piece of work, because the modes of torch belong to one thread.
    """

    def __init__(self, count: int, around: Around | None = None) -> None:
        self._count, self._around = count, around or nullcontext
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self._count > 1:
            cores = torch.get_num_threads()
            all_there = threading.Barrier(self._count + 1)
            self._pool = ThreadPoolExecutor(self._count, "tile", _begin, (max(1, cores // self._count), all_there))
            try:
                for _ in range(self._count):
                    self._pool.submit(lambda: None)
                all_there.wait()
            except BaseException:  # as where no more threads are allowed: those that wait would do so for ever
                all_there.abort()
                self._pool.shutdown()
                raise
            finally:
                torch.set_num_threads(cores)  # for threads that others begin from now on; those here keep their own
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def each(self, work: Callable[[Thing], Made], things: Iterable[Thing]) -> Iterator[Made]:
        """`work(thing)` of all, in order; one more than there are workers is begun before the first is taken.

        Raises:
            Exception: what the work raised, where its result would be.
        """
        if not self._pool:
            yield from map(work, things)
            return
        begun: deque[Future[Made]] = deque()
        for thing in things:
            begun.append(self._pool.submit(self._do, work, thing))
            if len(begun) > self._count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _do(self, work: Callable[[Thing], Made], thing: Thing) -> Made:
        with torch.no_grad(), self._around():
            return work(thing)


def _begin(cores: int, all_there: threading.Barrier) -> None:
    torch.get_num_threads()  # or torch would ask at the first call how many there are for all, and take these
    torch.set_num_threads(cores)
    all_there.wait()
