"""Pools of threads that exist from the start."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


def start_pool(count: int, name: str) -> ThreadPoolExecutor:
    """Returns a pool of ``count`` threads, all of them running.

    A pool starts its threads one by one, when it is given work. One that cannot be started then, under a limit of
    threads or memory, would raise in the middle of that work.

    Raises:
        RuntimeError: So many threads cannot be started.
    """
    pool, together = ThreadPoolExecutor(count, thread_name_prefix=name), Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(together.wait)
    except RuntimeError:
        together.abort()
        pool.shutdown(wait=False)
        raise
    together.wait()
    return pool
