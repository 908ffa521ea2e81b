"""The trial of a model bundle, in a process of its own: whatever the files hold, only that process can come to harm."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from attention_patterns.errors import AttentionPatternsError, BundleError
from attention_patterns_service.command.signals import end_with_parent

_COMMAND = (sys.executable, "-P", "-m", "attention_patterns_service.command.bundle_trial")
_MEMORY = 8 << 30  # bytes of addresses, of which onnxruntime and numpy use a small part
_LONGEST_REPORT = 2000  # characters


def try_bundle(folder: Path, *, seconds: float) -> str:
    """Returns the SHA-256 of the net of a bundle that was loaded and run, in another process.

    A net may crash onnxruntime, never come to an end, or take all memory; none of that can be undone in a server.

    Raises:
        BundleError: The bundle cannot be loaded and run within ``seconds``.
    """
    try:
        done = subprocess.run(
            [*_COMMAND, str(folder), str(os.getpid())],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            start_new_session=True,  # signals to the server are not meant for it
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"model bundle {folder} was not loaded and run within {seconds:g} s") from None
    if done.returncode == 0:
        return done.stdout.strip()
    if done.returncode == 1 and done.stdout:
        raise BundleError(done.stdout.strip()[:_LONGEST_REPORT])
    raise BundleError(f"model bundle {folder} ended the process that tried it, exit code {done.returncode}")


def main(folder: str, parent: str) -> int:
    """Loads and runs a bundle; prints the SHA-256 of its net, or the reason why it is refused."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before it could be bound to
        return 1
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from attention_patterns.pattern_classifier import PatternClassifier  # noqa: PLC0415  under the limits

    try:
        sys.stdout.write(PatternClassifier.load(folder).bundle.sha256)
    except AttentionPatternsError as error:
        sys.stdout.write(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
