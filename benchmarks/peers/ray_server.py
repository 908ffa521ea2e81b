"""Serves by Ray Serve, raw bytes both ways, in its high-throughput configuration.

HAProxy stands in front of two replicas, one per core, each of which runs the net in its event loop. Without
RAY_SERVE_THROUGHPUT_OPTIMIZED and RAY_SERVE_ENABLE_HA_PROXY, which are off by default, it is ten times slower at one
image per request. With HAProxy, Ray has the replicas listen on all interfaces.
"""

# ruff: noqa: E402  ray reads its variables when it is loaded
import os
import signal
import tempfile
from pathlib import Path

folder = Path(tempfile.gettempdir()) / "haproxy"
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else a token is written into the home folder
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
    "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
}

import ray
from net import Net
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=2, max_ongoing_requests=16)
class Classifier:
    """A replica, which runs the net."""

    def __init__(self) -> None:
        """Loads the net."""
        self.net = Net(os.environ["MODEL"])

    async def __call__(self, request: Request) -> Response:
        """Answers with the probabilities of images."""
        return Response(self.net(await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Classifier.bind(), route_prefix="/classify")
    signal.pause()
