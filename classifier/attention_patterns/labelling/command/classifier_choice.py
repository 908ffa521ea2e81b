"""The choice of the classifier that a run uses: the net in this process, or a server."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from attention_patterns.classifier import Classifier
from attention_patterns.errors import BundleError, InvalidSettingsError
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.programs.extras import install_command, name_missing_extra
from attention_patterns.rendering import RENDERING_VERSION


@dataclass(frozen=True)
class OpenClassifier:
    """A classifier that is ready.

    Attributes:
        classifier: The classifier.
        identity: Name, version and digest of its net, which a continued run must have again.
        context: Context to leave when the classifier is not needed any more.
    """

    classifier: Classifier
    identity: str
    context: AbstractContextManager[Any]


@dataclass(frozen=True)
class ClassifierChoice:
    """The choice of a classifier; can be pickled.

    Attributes:
        endpoint: "HOST:PORT" of a server; None for the net in this process.
        bundle: Folder of the model bundle; None for the bundled one.
    """

    endpoint: str | None = None
    bundle: Path | None = None

    def open(self, *, threads: int | None = None, warm: bool = False) -> OpenClassifier:
        """Loads the net, or connects to the server.

        Args:
            threads: Number of cores to use in this process, all by default.
            warm: Whether to load the compiled kernel as well, so that its memory is counted from the beginning.

        Raises:
            BundleError: The bundle, or that of the server, is missing, damaged, or made for another rendering.
            InvalidSettingsError: Endpoint and bundle are both given, or no client is installed.
            MissingExtraError: A package that the client needs is not installed.
            ServerError: The server cannot be reached.
        """
        if self.endpoint is None:
            own = PatternClassifier.load(self.bundle, threads=threads)
            if warm:
                own.warm_up()
            return OpenClassifier(own, f"{own.model} {own.bundle.sha256[:12]}", nullcontext())
        if self.bundle:
            raise InvalidSettingsError(
                "--bundle and --endpoint exclude each other, since the server has a bundle of its own; leave one out"
            )
        return _connect(self.endpoint)

    def load(self) -> Classifier:
        """Opens the classifier for a worker that has one core and ends with its classifier."""
        return self.open(threads=1, warm=True).classifier


def _connect(endpoint: str) -> OpenClassifier:
    clients = entry_points(group="attention_patterns.clients", name="grpc")
    if not clients:  # a checkout on the path, never installed
        raise InvalidSettingsError(
            f"--endpoint needs an installed copy of attention-patterns: {install_command('service')}"
        )
    with name_missing_extra("service", needed_by="--endpoint"):
        client = next(iter(clients)).load()(endpoint)
    model = client.model()
    if model.rendering_version != RENDERING_VERSION:
        raise BundleError(
            f"the server at {endpoint} reads images of rendering {model.rendering_version}, expected rendering "
            f"{RENDERING_VERSION}; use the same version of attention-patterns on both sides"
        )
    return OpenClassifier(client, f"{model.name} {model.version} {model.sha256[:12]}", client)
