"""Access tokens, made as people make them."""

from typer.testing import CliRunner

from attention_patterns_service.command.cli import app


def token_command(*arguments):
    """Runs ``attention-serve token`` in this process."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["token", *map(str, arguments)])


def new_token(path, name, *options):
    """Makes a token and returns its characters."""
    done = token_command("add", name, f"--tokens={path}", *options)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()
