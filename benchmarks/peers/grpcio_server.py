"""Serves by grpcio alone, raw bytes both ways: no check, no limit, nothing counted. No gRPC server in Python is faster.

Two processes, one per core, share the port, each with threads: faster in both batch sizes than asyncio, and than one
process.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from net import Net

_OPTIONS = [("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", -1)]


class Classify(grpc.GenericRpcHandler):
    """The handler of the only method."""

    def __init__(self) -> None:
        """Loads the net."""
        net = Net(os.environ["MODEL"])
        self._handler = grpc.unary_unary_rpc_method_handler(lambda images, _context: net(images))

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Returns the handler of any call."""
        return self._handler


if __name__ == "__main__":
    if len(sys.argv) == 1:
        subprocess.Popen([sys.executable, __file__, "second"])
    server = grpc.server(ThreadPoolExecutor(16), handlers=[Classify()], options=_OPTIONS)
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    server.wait_for_termination()
