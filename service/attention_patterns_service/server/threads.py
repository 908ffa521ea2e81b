"""Pools of threads that exist from the start: where one cannot be started, the server does not start."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from attention_patterns.errors import ServerError


def start_pool(count: int, name: str) -> ThreadPoolExecutor:
    """Returns a pool of ``count`` threads, all of them running.

    A pool starts its threads one by one, when it is given work. A thread that cannot be started then, under a limit of
    threads or memory, would raise inside gRPC's only serving thread and end it: the server would be deaf.

    Raises:
        ServerError: So many threads cannot be started.
    """
    pool, together = ThreadPoolExecutor(count, thread_name_prefix=name), Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(together.wait)
    except RuntimeError as error:
        together.abort()
        pool.shutdown(wait=False)
        raise ServerError(
            f"{count} threads cannot be started: {error}; raise the limit of threads or memory, or lower --max-calls"
        ) from error
    together.wait()
    return pool
