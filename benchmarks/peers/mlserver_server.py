"""Serves by MLServer over gRPC, V2 protocol, with a runtime of our own and tensors of BYTES.

A UINT8 tensor, raw or not, becomes a Python list of its values on the way in: 30 ms more for 144 images. One process:
``parallel_workers`` passes requests through queues, is slower at both sizes, and with uvloop 0.22 or later does not
start (its workers expect an event loop in their main thread). Few images are answered in the event loop, more in a
thread per call, so that both cores are used.
"""

import asyncio
import os

import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from net import Net

SMALL = 100_000  # bytes: about 15 images, 1.5 ms of the net


class Classifier(MLModel):
    """A runtime with one BYTES tensor of a single element in, and one out."""

    async def load(self) -> bool:
        """Loads the net."""
        self.net = Net(os.environ["MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers with the probabilities of images."""
        images = payload.inputs[0].data[0]
        probabilities = self.net(images) if len(images) < SMALL else await asyncio.to_thread(self.net, images)
        output = ResponseOutput(name="probabilities", shape=[1], datatype="BYTES", data=[probabilities])
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serves until SIGTERM."""
    settings = Settings(
        host="127.0.0.1",
        grpc_port=int(os.environ["PORT"]),
        http_port=0,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
    )
    await MLServer(settings).start([ModelSettings(name="net", implementation=Classifier)])


if __name__ == "__main__":
    uvloop.run(main())
