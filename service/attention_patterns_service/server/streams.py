"""Answering the messages of a stream in order, reading a few ahead."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread

import grpc

from attention_patterns.errors import DeadlineError

READ_AHEAD = 2  # requests of a stream that are classified while their answers' turn comes


def in_order(
    answer: Callable[[bytes], bytes], requests: Iterator[bytes], *, idle_seconds: float
) -> Generator[bytes, None, None]:
    """Yields the answers in the order of the requests, reading and answering a few ahead.

    A thread of its own reads, so that no answer waits for the request after it.

    Raises:
        DeadlineError: nothing came for ``idle_seconds``.
    """
    pending: Queue[Future[bytes] | None] = Queue(READ_AHEAD)
    pool = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="stream")

    def read() -> None:
        with suppress(grpc.RpcError, RuntimeError):  # the call was cancelled; the pool was shut down
            for request in requests:
                pending.put(pool.submit(answer, request))
        pending.put(None)

    future: Future[bytes] | None = Future()
    reader = Thread(target=read, name="stream-reader", daemon=True)
    reader.start()
    try:
        while (future := pending.get(timeout=idle_seconds)) is not None:
            yield future.result()
    except Empty:
        raise DeadlineError(f"no request came for {idle_seconds:g} s") from None
    finally:
        # Whoever closes this generator ends the call, and with it the reader, unless that waits for room in the queue.
        pool.shutdown(wait=False, cancel_futures=True)
        if future is not None:
            Thread(target=_drain, args=(pending, reader), name="stream-drain", daemon=True).start()


def _drain(pending: "Queue[Future[bytes] | None]", reader: Thread) -> None:
    while reader.is_alive():
        with suppress(Empty):
            pending.get(timeout=0.1)
