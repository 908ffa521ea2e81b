"""Reading tokens and bundle again while the server serves, on a thread of its own."""

import os
from collections.abc import Callable
from threading import Event, Lock, Thread

from attention_patterns.errors import AttentionPatternsError, BundleError
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns_service.command.bundle_trial import try_bundle
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.server.access import Open, Tokens
from attention_patterns_service.server.logs import logger
from attention_patterns_service.server.server import AttentionServer


def load(settings: Settings) -> PatternClassifier:
    """Loads the classifier, ready for its first call.

    Workers have the cores twice over: one alone at work uses more than its share, and all of them little more.

    Raises:
        BundleError: The bundle is missing, damaged, or made for another rendering.
    """
    cores = len(os.sched_getaffinity(0))
    threads = max(1, min(cores, 2 * cores // settings.workers))
    classifier = PatternClassifier.load(settings.model_dir, threads=threads)
    classifier.warm_up()
    return classifier


class Reloader:
    """A thread that reads tokens and bundle again whenever it is asked to; what is refused leaves all as it was."""

    def __init__(self, server: AttentionServer, settings: Settings, access: Open | Tokens) -> None:
        """Starts the thread, which has nothing to do yet."""
        self._server = server
        self._settings = settings
        self._access = access
        self._asked = Event()
        self._loading = Lock()
        Thread(target=self._run, name="reload", daemon=True).start()

    def ask(self) -> None:
        """Has the files read again; asked several times meanwhile, once more."""
        self._asked.set()

    def stop(self) -> None:
        """Waits for the end of a load, and lets no other begin: the process would come down while C++ is at work."""
        self._loading.acquire()

    def _run(self) -> None:
        while self._asked.wait():
            self._asked.clear()
            if isinstance(self._access, Tokens):  # before the bundle, which takes longer: a token may be revoked
                self._read("tokens", self._access.reload)
            self._read("model", self._replace_model)

    def _read(self, file: str, read: Callable[[], None]) -> None:
        """Reads a file again, and reports what came of it."""
        try:
            read()
        except AttentionPatternsError as error:
            self._report_refusal(file, str(error))
        except Exception as error:  # noqa: BLE001  a file from outside, and the thread must live for the next one
            self._report_refusal(file, f"{type(error).__name__}: {error}")
        else:
            self._server.metrics.note_reload(file, success=True)

    def _report_refusal(self, file: str, reason: str) -> None:
        self._server.metrics.note_reload(file, success=False)
        logger.error(f"{file} refused, the one before stays", extra={"error": reason})

    def _replace_model(self) -> None:
        folder = self._settings.model_dir
        tried = try_bundle(folder, seconds=self._settings.load_seconds) if folder else None
        with self._loading:
            classifier = load(self._settings)
        if tried not in (None, classifier.bundle.sha256):
            raise BundleError(f"model bundle {folder} was replaced while it was tried")
        self._server.replace(classifier)
        logger.info("model loaded", extra={"model": classifier.model, "sha256": classifier.bundle.sha256})
