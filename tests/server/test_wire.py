import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from attention_patterns_service.contract.converters import HEADS, IMAGES, STREAMED_HEADS
from attention_patterns_service.contract.wire import Parcel, Route
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb

TENSOR = Route(pb.Tensor, (3,))
MESSAGES = st.builds(
    pb.ClassifyHeadsRequest,
    request_id=st.text(max_size=3),
    tokens=st.lists(st.text(max_size=2), max_size=3),
    attention=st.builds(pb.Tensor, data_type=st.integers(0, 4), shape=st.lists(st.integers(0, 2**63), max_size=3)),
    first_head=st.integers(0, 2**32 - 1),
)


@given(message=MESSAGES, payload=st.binary(max_size=300))
def test_messages_are_written_and_read_as_by_generated_code(message, payload):
    data = HEADS.write(Parcel(message, payload))
    whole = pb.ClassifyHeadsRequest()
    whole.CopyFrom(message)
    whole.attention.data = payload
    assert pb.ClassifyHeadsRequest.FromString(data) == whole
    for travelling in (data, whole.SerializeToString()):
        read = HEADS.read(travelling)
        assert read.message == message or not payload
        assert bytes(read.payload or b"") == payload


@given(message=MESSAGES, payload=st.binary(max_size=20))
def test_a_message_in_a_message_is_written_and_read(message, payload):
    outer = pb.StreamClassifyHeadsRequest(request=message)
    read = STREAMED_HEADS.read(STREAMED_HEADS.write(Parcel(outer, payload)))
    assert (read.message, bytes(read.payload)) == (outer, payload)


def test_the_payload_stays_where_it_arrived():
    data = TENSOR.write(Parcel(pb.Tensor(shape=[2]), b"values"))
    read = TENSOR.read(data)
    assert read.payload.obj is data
    assert read.message == pb.Tensor(shape=[2])


def test_the_last_of_several_payloads_counts():
    data = pb.Tensor(data=b"first").SerializeToString() + pb.Tensor(data=b"last").SerializeToString()
    read = TENSOR.read(data)
    assert read.message.data == pb.Tensor.FromString(data).data == b"last"


def test_more_than_a_little_besides_the_payload_is_refused():
    route = Route(pb.Tensor, (3,), rest=100)
    data = pb.Tensor(data=bytes(1000)).SerializeToString()
    assert len(route.read(data + b"\x10\1" * 50).payload) == 1000
    for spoilt in (data + b"\x10\1" * 51, b"\x10\1" * 51 + data, b"\x10\1" * 51):
        with pytest.raises(DecodeError, match="besides its payload, expected at most 100"):
            route.read(spoilt)


def test_flat_fields_are_not_counted_as_besides_the_payload():
    route = Route(pb.StreamClassifyHeadsRequest, (1, 2, 3), rest=100, flat=((1, 1), (1, 3)))
    inner = pb.ClassifyHeadsRequest(request_id="x" * 1000, tokens=["y" * 1000] * 5)
    assert route.read(pb.StreamClassifyHeadsRequest(request=inner).SerializeToString()).message.request == inner
    inner.tokens.extend(["y"] * 100)
    with pytest.raises(DecodeError, match="expected at most 100"):
        route.read(pb.StreamClassifyHeadsRequest(request=inner).SerializeToString())


def test_a_message_without_payload_is_read():
    assert IMAGES.read(b"") == Parcel(pb.ClassifyImagesRequest(), None)
    assert IMAGES.write(Parcel(pb.ClassifyImagesRequest(), None)) == b""


@given(data=st.binary(max_size=60) | st.binary(max_size=12).map(lambda rest: b"\x12\x0a\x1a\x08" + rest))
def test_any_bytes_are_read_as_by_generated_code(data):
    """Bytes that start like a request with a tensor are among them."""
    try:
        expected = pb.ClassifyHeadsRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            HEADS.read(data)
        return
    read = HEADS.read(data)
    if read.payload is not None and not read.message.attention.data:
        read.message.attention.data = bytes(read.payload)
    assert read.message == expected
