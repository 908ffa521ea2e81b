"""``attention-serve``: the server as a process, and the commands around it.

cli.py           the command line: serving, with one option per setting, and the sub-commands
settings.py      the effective configuration of a server process
process.py       one serving process, from loading to its end
reload.py        tokens and bundle, read again while it serves
bundle_trial.py    a bundle tried in a process of its own, which alone can come to harm
workers.py       several serving processes behind one port, and the supervisor that replaces dead ones
handshake.py     the handshake by which a worker proves to its supervisor that it serves
signals.py       signals as bytes, to be waited for beside other events
metrics_page.py  the metrics over HTTP, for Prometheus
reports.py       errors as sentences and an exit code
problems.py      problems that would keep a server from starting, found by trying
check.py         ``attention-serve --check``: the configuration, and a self-test
token.py         ``attention-serve token add``: new tokens for callers
health.py        ``attention-serve health``: a probe
triton.py        ``attention-serve triton``: the net as a model of Triton
demo.py          ``make run``: the bundled sample through a real server
__main__.py      the same command, for ``python -m``
"""

import os
import signal
import sys

_NAME, _VARIABLES = "attention-serve", "ATTENTION_SERVE"  # the command, and the prefix of its environment variables


def main() -> None:
    """Runs ``attention-serve``; where packages of its extra are missing, prints one sentence and exits with code 1."""
    # gRPC writes a line per failed handshake, which any stranger can have, and waits for its reader.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # A probe runs every few seconds beside a busy server: it leaves out what takes a second to import.
        if sys.argv[1:2] == ["health"]:
            from attention_patterns_service.command.health import app  # noqa: PLC0415

            arguments, name, variables = sys.argv[2:], f"{_NAME} health", f"{_VARIABLES}_HEALTH"
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # "reload" waits until the server listens to it
            from attention_patterns_service.command.cli import app  # noqa: PLC0415  may miss packages

            arguments, name, variables = sys.argv[1:], _NAME, _VARIABLES
        from typer._click.exceptions import ClickException  # noqa: PLC0415  typer exports only some of its kinds
    except ModuleNotFoundError:
        from attention_patterns.errors import MissingExtraError  # noqa: PLC0415  takes a second to import
        from attention_patterns.programs.extras import name_missing_extra  # noqa: PLC0415

        try:
            with name_missing_extra("service", needed_by=_NAME):
                raise
        except MissingExtraError as error:
            raise SystemExit(str(error)) from None
    try:
        sys.exit(app(arguments, prog_name=name, auto_envvar_prefix=variables, standalone_mode=False))
    except ClickException as error:
        from attention_patterns.programs.command_line import end_with_usage_error  # noqa: PLC0415  takes as long

        end_with_usage_error(error)
