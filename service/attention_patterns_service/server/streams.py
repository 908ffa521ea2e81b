"""Answers to the messages of a stream, in their order, while a few messages are read ahead."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread

import grpc

from attention_patterns.errors import DeadlineError

READ_AHEAD = 2  # messages of a stream that are answered before their answer's turn comes


def answer_in_order(
    answer: Callable[[bytes], bytes], messages: Iterator[bytes], *, idle_seconds: float
) -> Generator[bytes, None, None]:
    """Yields the answers in the order of the messages, reading and answering a few ahead.

    A thread of its own reads, so that no answer waits for the message after it.

    Raises:
        DeadlineError: No message came for ``idle_seconds``.
    """
    pending: Queue[Future[bytes] | None] = Queue(READ_AHEAD)
    pool = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="stream")

    def read() -> None:
        with suppress(grpc.RpcError, RuntimeError):  # the call was cancelled; the pool was shut down
            for message in messages:
                pending.put(pool.submit(answer, message))
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
