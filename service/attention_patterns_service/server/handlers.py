"""The handlers of calls that were let in: each reads the messages of one call, answers them and reports each.

Handlers take a stream of messages, also where the client sends a single one, which is the same on the wire. Only so is
a message read no sooner than a thread is free for it, and a call that is cancelled before that still counted out.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import cast

import grpc

from attention_patterns.errors import AbandonedError, MessageError
from attention_patterns_service.contract.errors import Failure, attempt, status_of
from attention_patterns_service.server.access import Access
from attention_patterns_service.server.call import Call, Caller
from attention_patterns_service.server.client_names import ClientNames, names_in_certificate
from attention_patterns_service.server.load import Holding, Load
from attention_patterns_service.server.logs import log_call, log_refusal, log_stream
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.streams import Incoming
from attention_patterns_service.server.traces import Trace
from attention_patterns_service.server.watchdog import Watchdog


@dataclass(frozen=True)
class Method:
    """One method of the server.

    Attributes:
        answer: Turns a message into its answer, and notes in the call what it finds out about it.
        refuse: Turns the failure of one message of a stream into its answer; None for a method of a single message.
    """

    answer: Callable[[bytes, Call], bytes]
    refuse: Callable[[Failure, Call], bytes] | None = None


@dataclass(frozen=True)
class Desk:
    """Everything that handlers of all calls share.

    Attributes:
        access: Decides who may call.
        client_names: Decides on callers by their certificates.
        load: Number and bytes of the calls in flight.
        metrics: Figures of the server.
        watchdog: Ends calls that wait too long for their caller.
        trace: Writes the span of a call; None where traces are not asked for.
        readers: Threads that read the messages of streams, one for each call.
    """

    access: Access
    client_names: ClientNames
    load: Load
    metrics: Metrics
    watchdog: Watchdog
    trace: Trace | None
    readers: ThreadPoolExecutor

    def report(self, call: Call, failure: Failure | None) -> None:
        """Reports a request that ended, well or with a failure, in metrics, logs and traces."""
        self.metrics.count_call(call, failure)
        log_call(call, failure)
        if failure:
            log_refusal(call.method, failure, peer=call.caller.peer)
        if self.trace:
            self.trace(call, failure, call.metadata)

    def report_stream(self, method: str, caller: Caller, failure: Failure | None) -> None:
        """Reports a stream that ended; its messages were reported one by one."""
        self.metrics.count_stream(method, failure)
        log_stream(method, caller, failure)


class _CallHandler:
    """A handler of one call, which was let in and counted in.

    gRPC calls it once, when a thread is free, with the messages and the context of the call.
    """

    _context: grpc.ServicerContext
    _caller: Caller

    def __init__(self, method: Method, *, name: str, token: str, desk: Desk) -> None:
        self._method = method
        self._name = name
        self._token = token
        self._desk = desk

    def _begin(self, context: grpc.ServicerContext) -> None:
        self._context = context
        certificate = names_in_certificate(context.auth_context())
        self._caller = Caller(self._token, peer=str(context.peer()), certificate=certificate)

    def _check_certificate(self) -> None:
        self._desk.client_names.check(self._caller.certificate)

    def _new_call(self) -> Call:
        seconds, holding = self._desk.load.limits.seconds, Holding(self._desk.load)
        return Call(self._context, method=self._name, caller=self._caller, seconds=seconds, holding=holding)

    def _answer(self, message: bytes, call: Call) -> bytes:
        call.begin_work(message)
        answer = self._method.answer(message, call)
        call.sent = len(answer)
        return answer

    def _release(self) -> None:
        self._desk.load.release(self._token)


class UnaryHandler(_CallHandler):
    """A handler of a call of one message.

    The call keeps its place and its answer's bytes in the load until its work is done and the call itself is over, in
    either order: an answer that the caller does not take holds memory.
    """

    _call: Call

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Returns the answer to the message, or ends the call with a failure."""
        self._begin(context)
        self._call = self._new_call()
        self._ends = count()  # of the work and of the call: the second one frees the place
        if not context.add_callback(self._note_end_of_call):  # the call is over already
            self._note_end_of_call()
        outcome = attempt(lambda: self._answer_one(messages))
        failure = outcome if isinstance(outcome, Failure) else None
        if failure:
            self._call.holding.keep(0)
        self._desk.report(self._call, failure)
        self._note_end_of_work()
        if failure:
            context.abort_with_status(status_of(failure))
        return cast("bytes", outcome)

    def _answer_one(self, messages: Iterator[bytes]) -> bytes:
        self._check_certificate()
        return self._answer(self._read_message(messages), self._call)

    def _read_message(self, messages: Iterator[bytes]) -> bytes:
        try:
            with self._desk.watchdog.waiting(self._context):
                message = next(messages, None)
        except grpc.RpcError as error:
            raise AbandonedError("the call ended before its message came") from error
        if message is None:
            raise MessageError("the call holds no message, expected one")
        return message

    def _note_end_of_call(self) -> None:
        """Notes that the caller took the answer or does not want it any more."""
        self._desk.watchdog.forget(self._context)
        if next(self._ends):
            self._free()

    def _note_end_of_work(self) -> None:
        """Notes that there is an answer, and watches whether the caller takes it."""
        if next(self._ends):
            self._free()
            return
        self._desk.watchdog.watch(self._context)
        if not self._context.is_active():  # it ended in between
            self._desk.watchdog.forget(self._context)

    def _free(self) -> None:
        self._call.holding.keep(0)
        self._release()


class StreamHandler(_CallHandler):
    """A handler of a call of any number of messages, each of which needs its right to an answer and its turn."""

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Yields the answers in the order of the messages; a failure of the stream itself ends the call."""
        self._begin(context)
        failure: Failure | None = None
        self._incoming = Incoming(messages, self._desk.readers, self._desk.load.limits)
        answers = self._answer_all()
        try:
            while failure is None and (outcome := attempt(lambda: next(answers, None))) is not None:
                if isinstance(outcome, Failure):
                    failure = outcome
                else:
                    yield outcome
        finally:
            answers.close()
            self._incoming.close()
            self._release()
            self._desk.report_stream(self._name, self._caller, failure)
        if failure:
            context.abort_with_status(status_of(failure))

    def _answer_all(self) -> Generator[bytes, None, None]:
        """Yields the answers to all messages; an error of the stream itself is raised."""
        self._check_certificate()
        while (message := self._incoming.next()) is not None:
            self._desk.access.identify(self._context.invocation_metadata())  # the token may have been revoked
            call = self._new_call()
            try:
                answer = self._answer_or_refuse(message, call)
                del message  # the answer may wait for its reader
                with self._desk.watchdog.waiting(self._context):
                    yield answer
            finally:
                call.holding.keep(0)

    def _answer_or_refuse(self, message: bytes, call: Call) -> bytes:
        outcome = attempt(lambda: self._answer_in_rate(message, call))
        failure = outcome if isinstance(outcome, Failure) else None
        self._desk.report(call, failure)
        if failure is None:
            self._incoming.note_good_one()
            return cast("bytes", outcome)
        call.holding.keep(0)
        return cast("Callable[[Failure, Call], bytes]", self._method.refuse)(failure, call)

    def _answer_in_rate(self, message: bytes, call: Call) -> bytes:
        self._desk.access.charge(self._token)
        return self._answer(message, call)
