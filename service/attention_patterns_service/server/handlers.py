"""The handlers of calls that were let in: each reads the messages of one call, answers them and reports the call.

Handlers take a stream of messages, also where the client sends a single one, which is the same on the wire. Only so is
a message read no sooner than a thread is free for it, and a call that is cancelled before that still counted out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import cast

import grpc

from attention_patterns.errors import AbandonedError, MessageError
from attention_patterns_service.contract.errors import Failure, attempt, status_of
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.logs import log_call
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.streams import answer_in_order
from attention_patterns_service.server.traces import Trace
from attention_patterns_service.server.watchdog import Watchdog


@dataclass(frozen=True)
class Method:
    """One method of the server.

    Attributes:
        answer: Turns a message into its answer, and notes in the call what it finds out about it.
        streaming: Whether a call may hold many messages.
    """

    answer: Callable[[bytes, Call], bytes]
    streaming: bool = False


@dataclass(frozen=True)
class Bookkeeping:
    """Everything that keeps track of calls.

    Attributes:
        load: Number and bytes of the calls in flight.
        metrics: Figures of the server.
        watchdog: Ends calls that wait too long for their caller.
        trace: Writes the span of a call; None where traces are not asked for.
    """

    load: Load
    metrics: Metrics
    watchdog: Watchdog
    trace: Trace | None

    def report(self, call: Call, failure: Failure | None) -> None:
        """Reports a call that ended, well or with a failure, in metrics, logs and traces."""
        self.metrics.count_call(call, failure)
        log_call(call, failure)
        if self.trace:
            self.trace(call, failure, call.metadata)


class _CallHandler:
    """A handler of one call, which was let in and counted in.

    gRPC calls it once, when a thread is free, with the messages and the context of the call.
    """

    _call: Call

    def __init__(self, method: Method, *, name: str, caller: str, books: Bookkeeping) -> None:
        self._method = method
        self._name = name
        self._caller = caller
        self._books = books

    def _begin(self, context: grpc.ServicerContext) -> None:
        seconds = self._books.load.limits.seconds
        self._call = Call(context, method=self._name, caller=self._caller, seconds=seconds)

    def _answer(self, message: bytes) -> bytes:
        self._call.received += len(message)
        answer = self._method.answer(message, self._call)
        self._call.sent += len(answer)
        return answer


class UnaryHandler(_CallHandler):
    """A handler of a call of one message.

    The call keeps its place in the load until its work is done and the call itself is over, in either order: an answer
    that the caller does not take holds memory.
    """

    _context: grpc.ServicerContext

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Returns the answer to the message, or ends the call with a failure."""
        self._begin(context)
        self._context = context
        self._ends = count()  # of the work and of the call: the second one frees the place
        if not context.add_callback(self._note_end_of_call):  # the call is over already
            self._note_end_of_call()
        outcome = attempt(lambda: self._answer(self._read_message(messages)))
        failure = outcome if isinstance(outcome, Failure) else None
        self._books.report(self._call, failure)
        self._note_end_of_work()
        if failure:
            context.abort_with_status(status_of(failure))
        return cast("bytes", outcome)

    def _read_message(self, messages: Iterator[bytes]) -> bytes:
        try:
            with self._books.watchdog.waiting(self._context):
                message = next(messages, None)
        except grpc.RpcError as error:
            raise AbandonedError("the call ended before its message came") from error
        if message is None:
            raise MessageError("the call holds no message, expected one")
        return message

    def _note_end_of_call(self) -> None:
        """Notes that the caller took the answer or does not want it any more."""
        self._books.watchdog.forget(self._context)
        if next(self._ends):
            self._books.load.release()

    def _note_end_of_work(self) -> None:
        """Notes that there is an answer, and watches whether the caller takes it."""
        if next(self._ends):
            self._books.load.release()
            return
        self._books.watchdog.watch(self._context)
        if not self._context.is_active():  # it ended in between
            self._books.watchdog.forget(self._context)


class StreamHandler(_CallHandler):
    """A handler of a call of any number of messages, each of which is answered."""

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Yields the answers in the order of the messages; a failure of the stream itself ends the call."""
        self._begin(context)
        failure: Failure | None = None
        answers = answer_in_order(self._answer, messages, idle_seconds=self._books.load.limits.idle_seconds)
        try:
            while (outcome := attempt(lambda: next(answers, None))) is not None:
                if isinstance(outcome, Failure):
                    failure = outcome
                    break
                with self._books.watchdog.waiting(context):
                    yield outcome
        finally:
            answers.close()
            self._books.load.release()
            self._books.report(self._call, failure)
        if failure:
            context.abort_with_status(status_of(failure))
