"""Serves by LitServe, raw bytes both ways: its FastAPI takes a body of bytes where ``decode_request`` asks for one.

One net per core (``workers_per_device``) and as many HTTP processes, the default. Between them stand the queues of a
multiprocessing manager: ``fast_queue``, which should put ZeroMQ in their place, changes nothing in 0.2.19 (the option
does not reach the transport), and with the transport set by hand no request is answered.
"""

import os
from typing import Annotated

import litserve
from fastapi import Body, Response
from net import Net


class Classifier(litserve.LitAPI):
    """The net in a worker process."""

    def setup(self, device: str) -> None:  # noqa: ARG002  LitServe names it
        """Loads the net."""
        self.net = Net(os.environ["MODEL"])

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """Returns the body, which is the images."""
        return request

    def predict(self, images: bytes) -> bytes:
        """Returns the probabilities of images."""
        return self.net(images)

    def encode_response(self, probabilities: bytes) -> Response:
        """Answers with the probabilities as the body."""
        return Response(probabilities, media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(api_path="/classify"), accelerator="cpu", devices=1, workers_per_device=2)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
