"""Server reflection: the methods, described to clients that ask, as calls like any other."""

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from grpc_reflection.v1alpha import reflection, reflection_pb2

from attention_patterns_service.contract.errors import Failure
from attention_patterns_service.contract.wire import read_small
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.handlers import Method
from attention_patterns_service.server.health import NAME as HEALTH

_ALPHA = reflection.SERVICE_NAME
_NAME = _ALPHA.replace("v1alpha", "v1")  # whose messages are the same on the wire


class Reflection:
    """The methods of server reflection, in both versions that clients speak."""

    def __init__(self, *services: str) -> None:
        """Describes ``services``, health and itself."""
        _describe_version_1()
        self._servicer = reflection.ReflectionServicer((*services, HEALTH, _ALPHA, _NAME))

    def methods(self) -> dict[str, Method]:
        """Returns the methods by their full names."""
        method = Method(self.describe, refuse=self.refuse)
        return {f"/{name}/ServerReflectionInfo": method for name in (_ALPHA, _NAME)}

    def describe(self, data: bytes, _call: Call) -> bytes:
        """Answers one question."""
        request = read_small(reflection_pb2.ServerReflectionRequest, data)
        (answer,) = self._servicer.ServerReflectionInfo(iter([request]), None)
        message: bytes = answer.SerializeToString()
        return message

    def refuse(self, failure: Failure, _call: Call) -> bytes:
        """Returns the answer to a question that is not answered."""
        error = reflection_pb2.ErrorResponse(error_code=failure.code.value[0], error_message=failure.message)
        message: bytes = reflection_pb2.ServerReflectionResponse(error_response=error).SerializeToString()
        return message


def _describe_version_1() -> None:
    """Adds the description of version 1, which no package here holds, to those that clients may ask for."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    Default().Add(text_format.Parse(text_format.MessageToString(alpha).replace("v1alpha", "v1"), FileDescriptorProto()))
