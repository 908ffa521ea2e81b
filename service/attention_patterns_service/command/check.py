"""``attention-serve --check``: the effective configuration, and a self-test of a server that has it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TypeVar

import numpy as np
from rich.table import Table
from rich.text import Text

from attention_patterns.errors import AttentionPatternsError
from attention_patterns.programs.foreign_text import visible
from attention_patterns.programs.terminal import SafeConsole
from attention_patterns.sample import load_sample
from attention_patterns_service.client import Client
from attention_patterns_service.command.bundle_trial import try_bundle
from attention_patterns_service.command.problems import try_settings
from attention_patterns_service.command.reload import load
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.limits import MIB, Limits
from attention_patterns_service.server.server import AttentionServer

_Result = TypeVar("_Result")


def check_settings(settings: Settings) -> bool:
    """Prints the configuration, its dangers, and what was tried with it; returns whether all of that succeeds."""
    console = SafeConsole()
    console.print(_configuration(settings))

    def report(outcome: str, style: str, sentence: str) -> None:
        console.print(Text.assemble((outcome, style), " ", sentence), soft_wrap=True)

    for warning in settings.warnings:
        report("warning", "yellow", warning)
    trials = list(try_settings(settings))
    for trial in trials:
        report(*(("ok", "green") if trial.succeeded else ("failed", "red")), trial.sentence)
    if not all(trial.succeeded for trial in trials):
        return False
    try:
        for step in _self_test(settings):
            report("ok", "green", step)
    except (AttentionPatternsError, OSError) as error:
        report("failed", "red", str(error))
        return False
    return True


def _configuration(settings: Settings) -> Table:
    table = Table("setting", "value", title="attention-serve")
    for setting in fields(Settings):
        value = getattr(settings, setting.name)
        if not isinstance(value, Limits):
            table.add_row(setting.name, "none" if value is None else visible(value))
    limits = settings.limits
    for limit in fields(Limits):
        table.add_row(f"limits.{limit.name}", f"{getattr(limits, limit.name):,}")
    table.add_row("memory of all messages, at most", f"{settings.workers * limits.memory // MIB:,} MiB")
    return table


def _self_test(settings: Settings) -> Iterator[str]:
    """Yields a sentence on each step that succeeds.

    Raises:
        AttentionPatternsError: A step fails.
    """
    sample = load_sample()
    if settings.model_dir:
        try_bundle(settings.model_dir, seconds=settings.load_seconds)
    classifier, ms = _measure_time(lambda: load(settings))
    yield f"{classifier.model} loaded in {ms:.0f} ms"
    expected = classifier.classify(sample.attention, tokens=sample.tokens, segments=sample.segments)
    # On a free port of this machine alone, without TLS and tokens: only a caller has what these ask for.
    with AttentionServer(classifier, port=0, limits=settings.limits) as server, Client(server.endpoint) as client:
        _, ms = _measure_time(client.model)
        yield f"a server answered in {ms:.0f} ms"
        answer, ms = _measure_time(
            lambda: client.classify(sample.attention, tokens=sample.tokens, segments=sample.segments)
        )
        if not np.array_equal(answer.probabilities, expected.probabilities):
            raise AttentionPatternsError(
                "the server's probabilities for the bundled sample differ from the library's, expected equal ones"
            )
        yield f"the server classified {answer.patterns.size} maps as the library does, in {ms:.0f} ms"


def _measure_time(work: Callable[[], _Result]) -> tuple[_Result, float]:
    """Returns the result of ``work`` and the time that it took, ms."""
    started = time.perf_counter()
    result = work()
    return result, 1000 * (time.perf_counter() - started)
