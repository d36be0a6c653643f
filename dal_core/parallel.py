"""All cores, and the same bits on any number of them.

What is computed side by side is cut into pieces whose number and order depend on the work alone, and each piece runs on
one thread of torch: sums that were split among threads would have other last bits, and with them other selections.
"""

import concurrent.futures
import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
_workers: contextvars.ContextVar[int | None] = contextvars.ContextVar("workers", default=None)


def workers() -> int:
    """Return on how many threads pieces are computed: those of `using_workers`, else as many as torch has.

    >>> with using_workers(2):
    ...     workers()
    2
    """
    return _workers.get() or torch.get_num_threads()


@contextlib.contextmanager
def using_workers(count: int | None) -> Iterator[None]:
    """Compute pieces on `count` threads inside the block; None leaves the number as it is."""
    token = _workers.set(count or _workers.get())
    try:
        yield
    finally:
        _workers.reset(token)


@contextlib.contextmanager
def fixed_threads(count: int = 1) -> Iterator[None]:
    """Run torch, BLAS and OpenMP on `count` threads inside the block, and restore the setting afterwards.

    Sums are split by thread, so that the number of threads changes the last bits of a result, and with them
    sooner or later a selection. A run therefore has a thread count of its own; `in_parallel` still finds as many
    workers inside as there were threads outside.
    """
    before = torch.get_num_threads()
    with using_workers(workers()), _thread_pools().limit(limits=count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def in_parallel(function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """Return what `map` returns, as a list; calls run side by side on `workers()` threads, each with one of torch.

    Inside a call there is one worker. The result does not depend on the number of workers, if calls share no generator.
    The first exception, in the order of the calls, is raised after those that run have ended.

    >>> in_parallel(pow, [2, 3], [3, 2])
    [8, 9]
    """
    calls = list(zip(*arguments, strict=True))
    count = min(workers(), len(calls))
    with fixed_threads():
        if count < 2:
            return [function(*each) for each in calls]
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            running = [pool.submit(_alone, function, *each) for each in calls]
            try:
                return [each.result() for each in running]
            finally:
                pool.shutdown(cancel_futures=True)


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function with one worker, whatever its thread was made in."""
    with using_workers(1):
        return function(*arguments)


@functools.cache
def _thread_pools() -> ThreadpoolController:
    """BLAS and OpenMP as loaded with the package; found once, because the search takes milliseconds."""
    return ThreadpoolController()
