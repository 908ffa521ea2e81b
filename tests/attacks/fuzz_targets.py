"""The targets of the fuzzer: every method of the server and two ways into the library, each with its judge.

A judge feeds one input to its target and compares what came of it with the right answer.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

import atheris
import numpy as np
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from attention_patterns import PatternClassifier
from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.rendering import RENDERING_VERSION
from attention_patterns_service.contract.converters import HEADS, IMAGES, STREAMED_HEADS, classification_of
from attention_patterns_service.contract.errors import INTERNAL_REASON, MEANINGS, Failure, attempt, status_of
from attention_patterns_service.limits import Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.inference import open_inference_pb2 as infer_pb
from attention_patterns_service.server.access import Open
from attention_patterns_service.server.call import Call, Caller
from attention_patterns_service.server.load import Holding, Load
from attention_patterns_service.server.methods import AttentionPatternService
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.methods import NAME, OpenInference
from attention_patterns_service.server.pipeline import Pipeline
from tests.attacks.fuzz_expected import (
    STORED,
    complaints_about,
    complaints_about_chances,
    expect,
    outputs_of_request,
    outputs_of_result,
    parse_arguments,
    parse_heads_request,
    parse_infer_request,
    split_texts,
)
from tests.attacks.fuzz_files import FILES, Files
from tests.attacks.fuzz_messages import (
    IMAGE,
    MOST,
    NET,
    SIZE,
    VERSION,
    Messages,
    describing_request,
    heads_request,
    images_request,
    infer_request,
    stream_request,
)
from tests.attacks.fuzz_seeds import Draw, draw_attention, library_arguments

REASONS = sorted({meaning.reason for meaning in MEANINGS.values()})


@dataclass(frozen=True)
class Outcome:
    """The outcome of an input.

    Attributes:
        reason: Reason of its refusal; "" where it was answered.
        wrong: What is wrong with that.
        crash: Error that is not ours, or other damage.
    """

    reason: str
    wrong: str = ""
    crash: str = ""


class Connection:
    """A connection that stays, in place of the context of a call."""

    def time_remaining(self):
        return None

    def is_active(self):
        return True

    def peer(self):
        return "fuzz"


class _Unforeseen(logging.Handler):
    """Keeps what ``attempt`` logs of an exception that is not ours."""

    def __init__(self):
        super().__init__()
        self.last = ""

    def emit(self, record):
        _, error, trace = record.exc_info
        while trace.tb_next:
            trace = trace.tb_next
        code = trace.tb_frame.f_code
        self.last = f"{type(error).__name__} in {Path(code.co_filename).name}:{code.co_name}: {error!s:.200}"


class Bench:
    """The server's methods without a server, and the classifier behind them."""

    def __init__(self, classifier=None):
        self.classifier = classifier or PatternClassifier.load()
        self.classifier.warm_up()
        metrics = Metrics(CollectorRegistry())
        metrics.set_model(self.classifier.bundle)
        self._load = Load(Limits(), metrics.set_load)
        self._turns = self._load._turns.qsize()
        pipeline = Pipeline(self.classifier, self._load, metrics)
        methods = AttentionPatternService(pipeline, Open()).methods() | OpenInference(pipeline).methods()
        self._methods = {name.rpartition("/")[2]: method.answer for name, method in methods.items()}
        self._unforeseen = _Unforeseen()
        logger = logging.getLogger("attention_patterns_service.contract.errors")
        logger.handlers, logger.propagate = [self._unforeseen], False

    def attempt(self, call):
        """Returns the answer, or the outcome where there is none."""
        answer = attempt(call)
        if not isinstance(answer, Failure):
            return answer
        status_of(answer)
        return self.refusal(answer.reason)

    def refusal(self, reason):
        """Returns the outcome of a refusal."""
        if reason == INTERNAL_REASON:
            return Outcome(reason, crash=self._unforeseen.last)
        return Outcome(reason, crash="" if reason in REASONS else f"an unknown reason: {reason}")

    def ask(self, name, data):
        """Returns the answer of a method, or the outcome where there is none."""
        call = Call(Connection(), method=name, caller=Caller(), seconds=60.0, holding=Holding(self._load))
        call.begin_work(data)
        answer = self.attempt(lambda: self._methods[name](data, call))
        call.holding.keep(0)
        if self._load.bytes or self._load._turns.qsize() != self._turns:
            return Outcome("", crash="the load is not given back")
        return answer


def _judge(outcome, expected, complaint=""):
    """Returns the outcome, wrong where another was expected: an answer, True; a refusal, False; either, None."""
    if outcome.crash:
        return outcome
    if expected is not None and expected is bool(outcome.reason):
        complaint = "refused, expected an answer" if expected else "answered, expected a refusal"
    return Outcome(outcome.reason, wrong=complaint)


def _read(kind, data):
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def _payload_of(route, data):
    """Returns the payload as the server sees it: an empty field after it, which no code writes, is ignored."""
    return bytes(route.read(data).payload or b"")


def _judge_heads(bench, data):
    message = _read(pb.ClassifyHeadsRequest, data)
    if message and not message.attention.data:
        message.attention.data = _payload_of(HEADS, data)
    return _judge_answer_of_heads(message, bench.ask("ClassifyHeads", data))


def _judge_answer_of_heads(message, answer):
    parsed, expected = expect(parse_heads_request, message) if message else (None, False)
    if isinstance(answer, Outcome):
        return _judge(answer, expected)
    response = pb.ClassifyHeadsResponse.FromString(answer)
    return _judge(Outcome(""), expected, _complain_of_heads(response, message, *parsed) if parsed else "")


def _complain_of_heads(response, message, request, picks):
    length = request.maps.shape[-1]
    result = classification_of([response], leading=request.maps.shape[:-2], length=length)
    wrong = "; ".join(complaints_about(outputs_of_result(result), request))
    places = [(0,) * (2 - len(picks)) + place for place in product(*picks)]
    if [(head.layer, head.head) for head in response.heads] != places or response.request_id != message.request_id:
        wrong += " other heads than were asked for"
    if [group.name for group in response.groups] != list(request.groups) or response.length != len(request.kept):
        wrong += " other groups or length than were declared"
    return wrong


def _judge_stream(bench, data):
    message, answer = _read(pb.StreamClassifyHeadsRequest, data), bench.ask("StreamClassifyHeads", data)
    if message and not message.request.attention.data:
        message.request.attention.data = _payload_of(STREAMED_HEADS, data)
    inner = message.request if message else None
    if isinstance(answer, Outcome):
        return _judge_answer_of_heads(inner, answer)
    return _judge_answer_of_heads(inner, pb.StreamClassifyHeadsResponse.FromString(answer).response.SerializeToString())


def _judge_images(bench, data):
    message, answer = _read(pb.ClassifyImagesRequest, data), bench.ask("ClassifyImages", data)
    size, expected = len(message.images or _payload_of(IMAGES, data)) if message else 0, False
    if message and (message.rendering_version, message.image_size) == (RENDERING_VERSION, SIZE):
        expected = len(message.request_id) <= 256 and size > 0 and size % IMAGE == 0
    if isinstance(answer, Outcome):
        return _judge(answer, expected)
    chances = np.array(pb.ClassifyImagesResponse.FromString(answer).probabilities, np.float32)
    wrong = "; ".join(complaints_about_chances(chances.reshape(-1, 5)))
    if len(chances) != size // IMAGE * 5:
        wrong += " other images than were asked for"
    return _judge(Outcome(""), expected, wrong)


def _judge_infer(bench, data):
    message, answer = _read(infer_pb.ModelInferRequest, data), bench.ask("ModelInfer", data)
    request, expected = expect(parse_infer_request, message) if message else (None, False)
    if isinstance(answer, Outcome):
        return _judge(answer, expected)
    response = infer_pb.ModelInferResponse.FromString(answer)
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    outputs = {tensor.name: _read_output(tensor, raw) for tensor, raw in pairs}
    complaints = complaints_about(outputs, request) if request else complaints_about_chances(outputs["probabilities"])
    wrong = "; ".join(complaints)
    known = outputs_of_request(request) if request else ["probabilities"]
    if message and {*outputs} != {*([output.name for output in message.outputs] or known)}:
        wrong += " other outputs than were asked for"
    return _judge(Outcome(""), expected, wrong)


def _read_output(tensor, raw):
    if tensor.datatype == "BYTES":
        return np.array([text.decode() for text in split_texts(raw)]).reshape(tensor.shape)
    dtype = np.bool_ if tensor.datatype == "BOOL" else STORED[tensor.datatype]
    return np.frombuffer(raw, dtype).reshape(tensor.shape)


def _judge_library(bench, data):
    return judge_classify(bench, Draw(atheris.FuzzedDataProvider(data).ConsumeIntInRange))


def judge_classify(bench, draw):
    """Draws arguments of ``PatternClassifier.classify`` and judges what came of them."""
    drawn = draw_attention(draw)
    attention, extra = library_arguments(draw, drawn)
    request, expected = expect(parse_arguments, attention, drawn.declared, **extra)
    answer = bench.attempt(lambda: bench.classifier.classify(attention, **extra, **drawn.declared))
    return _judge_result(request, expected, answer)


def _judge_result(request, expected, answer):
    if isinstance(answer, Outcome):
        return _judge(answer, expected)
    wrong = "; ".join(complaints_about(outputs_of_result(answer), request)) if request else ""
    return _judge(Outcome(""), expected, wrong)


def _judge_read_in_place(bench, data):
    return judge_read(bench, Draw(atheris.FuzzedDataProvider(data).ConsumeIntInRange))


def judge_read(bench, draw):
    """Draws maps at any address, as they come in the middle of a message, and judges what ``classify_read`` answers."""
    drawn, offset = draw_attention(draw), draw.pick(0, 15)
    buffer = bytes(offset) + drawn.values.tobytes()
    values = np.frombuffer(buffer, drawn.values.dtype, offset=offset).reshape(drawn.values.shape)
    request, expected = expect(parse_arguments, drawn.values, drawn.declared, data_type=drawn.data_type)
    firsts = {"first_layer": draw.pick(0, 3), "first_head": draw.pick(0, 3)}

    def classify():
        maps = read_attention(values, drawn.data_type, **firsts)
        return bench.classifier.classify_read(maps, read_declaration(maps.length, **drawn.declared))

    return _judge_result(request, expected, bench.attempt(classify))


@dataclass(frozen=True)
class Target:
    """Something that is fed.

    Attributes:
        judge: Feeds an input to it on a bench, and returns the outcome.
        share: Its share of all inputs.
        messages: Messages or files that it takes; None where the bytes of an input are choices, see ``Draw``.
        classifies: Whether its answers are of the kernel or the net.
    """

    judge: Callable
    share: float
    messages: Messages | Files | None = None
    classifies: bool = True

    @property
    def longest(self):
        """Bytes of an input, at most."""
        return MOST if self.messages else 400

    def seed(self, number):
        """Returns an input that is likely to be answered."""
        return self.messages.seed(number) if self.messages else Random(number).randbytes(self.longest)


def _describing(name, is_answered=lambda _message: True):
    """Returns a target that describes something; it answers each message that ``is_answered`` accepts."""
    kind = getattr(pb if name == "GetModel" else infer_pb, f"{name}Request")

    def judge(bench, data):
        message, answer = _read(kind, data), bench.ask(name, data)
        outcome = answer if isinstance(answer, Outcome) else Outcome("")
        return _judge(outcome, message is not None and is_answered(message))

    return Target(judge, 0.01, Messages(kind, describing_request(kind)), classifies=False)


def _reading(name):
    """Returns a target that reads files; each is taken, or refused with an error of ours."""
    files, read = FILES[name]

    def judge(bench, data):
        answer = bench.attempt(lambda: read(data))
        return answer if isinstance(answer, Outcome) else Outcome("")

    return Target(judge, 0.02, files, classifies=False)


def _is_served(message):
    return message.name in (NAME, NET) and message.version in ("", VERSION)


TARGETS = {
    "classify": Target(_judge_library, 0.22),
    "classify_read": Target(_judge_read_in_place, 0.1),
    "ClassifyHeads": Target(_judge_heads, 0.25, Messages(pb.ClassifyHeadsRequest, heads_request)),
    "StreamClassifyHeads": Target(_judge_stream, 0.1, Messages(pb.StreamClassifyHeadsRequest, stream_request)),
    "ClassifyImages": Target(_judge_images, 0.07, Messages(pb.ClassifyImagesRequest, images_request)),
    "ModelInfer": Target(_judge_infer, 0.2, Messages(infer_pb.ModelInferRequest, infer_request)),
    "GetModel": _describing("GetModel"),
    "ModelMetadata": _describing("ModelMetadata", _is_served),
    "ModelReady": _describing("ModelReady"),
    "ServerMetadata": _describing("ServerMetadata"),
    "ServerLive": _describing("ServerLive"),
    "ServerReady": _describing("ServerReady"),
    **{name: _reading(name) for name in FILES},
}
