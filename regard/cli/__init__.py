"""The command line: one file a command; each parses, calls, prints. Heavy imports happen when a command runs."""

from __future__ import annotations

import os
import sys

import typer

from regard.cli.evaluate import evaluate
from regard.cli.explain import explain
from regard.cli.export import export
from regard.cli.plan import plan
from regard.cli.plot import plot
from regard.cli.run import run
from regard.cli.serve import explore, serve
from regard.cli.train import train
from regard.errors import RegardError

app = typer.Typer(
    name="regard",
    help="Attention models, trained and run at full speed, with every number inside them open to view.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: twice as fast to start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Add --debug to any command to see a traceback where it ends with an error.",
)
app.command()(explain)
app.command()(run)
app.command()(evaluate)
app.command()(train)
app.command()(plan)
app.command()(plot)
app.command()(export)
app.command()(serve)
app.command()(explore)


@app.callback(invoke_without_command=True)
def _main(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from regard import __version__

        print(f"regard {__version__}")
        raise typer.Exit


def main() -> None:
    """Run a command. A mistake of the user's is one line on standard error and exit status 2."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments)
    except RegardError as error:
        if debug:
            raise
        print(f"regard: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            raise
        print("regard: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output went away: nothing is wrong. Keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if debug:
            raise
        print(f"regard: {type(error).__name__}: {error} (a bug; --debug shows where)", file=sys.stderr)
        sys.exit(1)
