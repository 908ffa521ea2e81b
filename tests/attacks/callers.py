"""Eight callers that send tensors while their server fails, and the ledger of what became of each.

Some send through the client, which sends maps or images, some through streams, whole or layer by layer. Each request
must come to one end in time: its right answer, to the bit, or an error of ours or of gRPC.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from threading import Lock, Thread

import grpc
import numpy as np

from attention_patterns import AttentionPatternsError
from attention_patterns_service.client import Client
from attention_patterns_service.contract.converters import classification_of
from attention_patterns_service.contract.errors import error_of
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub

TIMEOUT = 60.0  # seconds that a call may take
HANG = 4 * TIMEOUT  # seconds without any end: a caller asks for the model, sends, and does both again after a change
BATCH = 5  # tensors of a stream
_KINDS = ("never", "never", "never", "always", "always", "stream", "stream", "layers")  # of the callers
_SHAPES = ((2, 12, 24, 24), (4, 12, 64, 64), (12, 12, 64, 64), (3, 4, 128, 128))  # 0.1 to 2.4 MB


def draw_tensors():
    """Draws attention with a sink in the first column; three of a shape, so that an answer to another is noticed."""
    random_numbers, tensors = np.random.default_rng(0), []
    for shape in 3 * _SHAPES:
        weights = np.exp(random_numbers.normal(0, 2, shape) + 4 * (np.arange(shape[-1]) == 0))
        tensors.append(np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32))
    return tensors


TENSORS = draw_tensors()


def bits_of(value):
    """Returns a result as nested tuples that are equal only where every bit is."""
    if is_dataclass(value):
        return tuple(bits_of(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, Mapping):
        return tuple((name, bits_of(inner)) for name, inner in value.items())
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return value


def right_answers(classifier):
    """Returns the model's name -> its answer to each tensor, as bits."""
    return {classifier.model: [bits_of(classifier.classify(tensor)) for tensor in TENSORS]}


@dataclass
class Ledger:
    """The outcome of each request; shared by the callers. Each request should have one end.

    Attributes:
        ends: Ends of each request: "answered", "WRONG ...", or the kind of the error.
        spans: Number of a request -> when it began and ended.
        faults: When each fault happened.
        last: When the last request ended.
    """

    ends: list[list[str]]
    spans: dict[int, tuple[float, float]] = field(default_factory=dict)
    faults: list[float] = field(default_factory=list)
    last: float = field(default_factory=time.monotonic)
    _lock: Lock = field(default_factory=Lock)

    def note(self, number, end, begun):
        """Notes an end of a request."""
        with self._lock:
            self.last = time.monotonic()
            self.ends[number].append(end)
            self.spans[number] = begun, self.last

    @property
    def done(self):
        """Number of requests that came to an end."""
        return len(self.spans)


@dataclass(frozen=True)
class Report:
    """The counts of a ledger.

    Attributes:
        requests: Requests sent.
        faults: Kills or replacements meanwhile.
        struck: Requests that were under way at a fault.
        answered: Requests that were answered rightly.
        outlived: Struck requests that were answered rightly.
        errors: Kind of error -> requests.
        wrong: Other answers and other errors.
        lost: Requests without an end.
        twice: Requests with several ends.
        longest: Seconds that the slowest request took.
    """

    requests: int
    faults: int
    struck: int
    answered: int
    outlived: int
    errors: Mapping[str, int]
    wrong: tuple[str, ...]
    lost: int
    twice: int
    longest: float

    @classmethod
    def of(cls, ledger):
        """Counts a ledger."""
        counts = Counter(end for ends in ledger.ends for end in ends)
        answered = counts.pop("answered", 0)
        wrong = tuple(end for end in counts if end.startswith("WRONG"))
        struck = [n for n, (begun, ended) in ledger.spans.items() if any(begun < t < ended for t in ledger.faults)]
        return cls(
            requests=len(ledger.ends),
            faults=len(ledger.faults),
            struck=len(struck),
            answered=answered,
            outlived=sum("answered" in ledger.ends[number] for number in struck),
            errors={end: count for end, count in counts.most_common() if end not in wrong},
            wrong=wrong,
            lost=sum(not ends for ends in ledger.ends),
            twice=sum(len(ends) > 1 for ends in ledger.ends),
            longest=max((ended - begun for begun, ended in ledger.spans.values()), default=0.0),
        )

    @property
    def sound(self):
        """Whether every request came to one right end."""
        return not (self.wrong or self.lost or self.twice)


class Caller:
    """A caller that sends its share of the requests and notes the end of each."""

    def __init__(self, kind, endpoint, right):
        """Takes the kind of calls: the client's "reduce", "stream", or "layers": a stream of one layer per message."""
        self._kind, self._right = kind, right
        self._client = Client(endpoint, timeout=TIMEOUT, reduce="always" if kind == "always" else "never")
        options = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = grpc.insecure_channel(endpoint, options=options)
        self._stub = AttentionPatternServiceStub(self._channel)

    def call(self, numbers, ledger, pauses):
        """Sends the requests of these numbers; after an error it rests for a moment."""
        streams = self._kind in {"stream", "layers"}
        size = BATCH if streams else 1
        for begin in range(0, len(numbers), size):
            batch, begun = numbers[begin : begin + size], time.monotonic()
            for number, end in self._stream(batch) if streams else self._ask(batch[0]):
                ledger.note(number, end, begun)
            if not all("answered" in ledger.ends[number] for number in batch):
                time.sleep(pauses.uniform(0.1, 1))

    def wait(self):
        """Waits for a connection."""
        grpc.channel_ready_future(self._channel).result(timeout=TIMEOUT)

    def close(self):
        """Closes the connections."""
        self._client.close()
        self._channel.close()

    def _ask(self, number):
        yield number, self._end_of(number, lambda: self._client.classify(TENSORS[number % len(TENSORS)]))

    def _stream(self, numbers):
        answers = defaultdict(list)
        asked = {number: self._messages(number) for number in numbers}
        broken = None
        try:
            requests = (pb.StreamClassifyHeadsRequest(request=each) for messages in asked.values() for each in messages)
            for answer in self._stub.StreamClassifyHeads(requests, timeout=TIMEOUT):
                answers[answer.request_id].append(answer)
        except grpc.RpcError as error:
            broken = error
        for number, messages in asked.items():
            received, sent = answers.pop(str(number), []), [message.first_layer for message in messages]
            layers = [answer.first_layer for answer in received]
            if layers == sent:
                yield number, self._end_of(number, lambda received=received, number=number: _join(received, number))
            elif len(layers) >= len(sent):
                yield number, f"WRONG answers to layers {layers}"
            elif broken is not None:
                yield number, _kind_of(broken)  # without an error the request is lost
        if answers:
            yield numbers[0], f"WRONG answers to {list(answers)}"

    def _messages(self, number):
        tensor = TENSORS[number % len(TENSORS)]
        size = 1 if self._kind == "layers" else len(tensor)
        return [
            pb.ClassifyHeadsRequest(
                request_id=str(number),
                first_layer=n,
                attention=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=piece.shape, data=piece.tobytes()),
            )
            for n in range(0, len(tensor), size)
            for piece in [tensor[n : n + size]]
        ]

    def _end_of(self, number, ask):
        try:
            result = ask()
        except (AttentionPatternsError, grpc.RpcError) as error:
            return _kind_of(error)
        except Exception as error:  # noqa: BLE001  whatever else comes is a finding
            return f"WRONG {type(error).__name__}: {error}"
        right = self._right.get(result.model)
        same = right is not None and bits_of(result) == right[number % len(TENSORS)]
        return "answered" if same else f"WRONG answer of {result.model} to {number}"


def _join(answers, number):
    for answer in answers:
        if answer.HasField("error"):
            raise error_of(answer.error.reason, answer.error.message, "")
    tensor = TENSORS[number % len(TENSORS)]
    responses = [answer.response for answer in answers]
    return classification_of(responses, leading=tensor.shape[:2], length=tensor.shape[-1])


def _kind_of(error):
    if isinstance(error, grpc.Call):
        return f"stream: {error.code().name}"
    unreached = "cannot be reached" in str(error)
    return f"{type(error).__name__}{': cannot be reached' if unreached else ''}"


class Campaign:
    """The callers of one server, and the faults that happen to it while they call."""

    def __init__(self, endpoint, right, *, seed):
        """Makes the callers, which connect when they call; ``right`` holds the right answers of each model."""
        self.random = random.Random(seed)
        self._ledger = Ledger([])
        self._callers = [Caller(kind, endpoint, right) for kind in _KINDS]

    def run(self, requests, fault=None):
        """Has the callers send so many requests, and lets ``fault`` happen again and again meanwhile.

        Raises:
            TimeoutError: The callers hang.
        """
        self._ledger = ledger = Ledger([[] for _ in range(requests)])
        shares = [range(n, requests, len(self._callers)) for n in range(len(self._callers))]
        pauses = [random.Random(self.random.random()) for _ in shares]
        threads = [
            Thread(target=caller.call, args=(share, ledger, pause), daemon=True)
            for caller, share, pause in zip(self._callers, shares, pauses, strict=True)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() - ledger.last > HANG:
                raise TimeoutError(f"no request came to an end for {HANG:g} s, {ledger.done} of {requests} did")
            if fault:
                self._wait(self.random.randint(5, 40))
                ledger.faults.append(time.monotonic())
                fault()
            time.sleep(0.02)
        return Report.of(ledger)

    def settle(self):
        """Waits until all callers are connected."""
        for caller in self._callers:
            caller.wait()

    def close(self):
        """Closes the connections."""
        for caller in self._callers:
            caller.close()

    def _wait(self, count):
        """Waits until so many more requests have ended, or for ten seconds, and a moment."""
        goal, end = min(self._ledger.done + count, len(self._ledger.ends)), time.monotonic() + 10
        while self._ledger.done < goal and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(self.random.uniform(0, 0.05))
