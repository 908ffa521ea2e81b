"""``attention-serve --check``: the effective configuration, and a self-test of a server that has it."""

import time
from collections.abc import Callable
from dataclasses import fields

import numpy as np
from rich.console import Console
from rich.table import Table

from attention_patterns.errors import AttentionPatternsError
from attention_patterns.sample import load_sample
from attention_patterns_service.client import Client
from attention_patterns_service.command.process import credentials_of, load
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.limits import MIB, Limits
from attention_patterns_service.server.server import AttentionServer


def check_settings(settings: Settings) -> bool:
    """Prints configuration and self-test; whether all is well."""
    console = Console()
    console.print(_configuration(settings))
    for warning in settings.warnings:
        console.print(f"[yellow]warning[/] {warning}")
    try:
        for line in _tried(settings):
            console.print(f"[green]ok[/] {line}")
    except (AttentionPatternsError, OSError) as error:
        console.print(f"[red]failed[/] {error}")
        return False
    return True


def _configuration(settings: Settings) -> Table:
    table = Table("setting", "value", title="attention-serve")
    for one in fields(Settings):
        value = getattr(settings, one.name)
        if not isinstance(value, Limits):
            table.add_row(one.name, "none" if value is None else str(value))
    limits = settings.limits
    for one in fields(Limits):
        table.add_row(f"limits.{one.name}", f"{getattr(limits, one.name):,}")
    most = settings.workers * (limits.bytes + limits.calls * limits.message_bytes)
    table.add_row("memory of messages, at most", f"{most // MIB:,} MiB")
    return table


def _tried(settings: Settings) -> list[str]:
    """What works, in sentences."""
    done = []

    def timed(what: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        done.append(f"{what} in {1000 * (time.perf_counter() - started):.0f} ms")

    sample = load_sample()
    started = time.perf_counter()
    classifier = load(settings)
    done.append(f"{classifier.model} loaded in {1000 * (time.perf_counter() - started):.0f} ms")
    credentials_of(settings)
    expected = classifier.classify(sample.attention, tokens=sample.tokens, segments=sample.segments)
    # On a free port of this machine alone, without TLS and tokens, which would need a caller's.
    with AttentionServer(classifier, port=0, limits=settings.limits) as server, Client(server.endpoint) as client:
        timed("a server answered", client.model)
        answer = client.classify(sample.attention, tokens=sample.tokens, segments=sample.segments)
        if not np.array_equal(answer.probabilities, expected.probabilities):
            raise AttentionPatternsError("the server's probabilities differ from the library's")
        timed(
            f"{answer.patterns.size} maps were classified as by the library,", lambda: client.classify(sample.attention)
        )
    return done
