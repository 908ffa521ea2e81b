"""Serves by BentoML with a mounted ASGI application, raw bytes both ways.

Each of two workers, one per core, runs the net in its event loop. The service's own API with bytes as root
input and output takes as long at 144 images per request, and 1.5 (async) to 2.5 times (sync, in its thread pool) as
long at one.
"""

import os
import sys

import bentoml
from net import Net
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

net = Net(os.environ["MODEL"])


async def classify(request: Request) -> Response:
    """Answers with the probabilities of images."""
    return Response(net(await request.body()), media_type="application/octet-stream")


@bentoml.service(workers=2, metrics={"enabled": False}, logging={"access": {"enabled": False}})
@bentoml.asgi_app(Starlette(routes=[Route("/classify", classify, methods=["POST"])]))
class Classifier:
    """The service that carries the application."""


if __name__ == "__main__":
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    address = ["--host", "127.0.0.1", "--port", os.environ["PORT"]]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Classifier", *address])
