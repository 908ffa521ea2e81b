"""The threads of the server, all of which exist from the start."""

from concurrent.futures import ThreadPoolExecutor

from attention_patterns.errors import ServerError
from attention_patterns.programs import threads


def start_pool(count: int, name: str) -> ThreadPoolExecutor:
    """Returns a pool of ``count`` threads, all of them running.

    A thread that cannot be started later, while calls come, would raise inside gRPC's only serving thread and end it:
    the server would be deaf.

    Raises:
        ServerError: So many threads cannot be started.
    """
    try:
        return threads.start_pool(count, name)
    except RuntimeError as error:
        raise ServerError(
            f"{count} threads cannot be started: {error}; raise the limit of threads or memory, or lower --max-calls"
        ) from error
