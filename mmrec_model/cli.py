"""The `mmrec` command: finds its subcommands through entry points and turns every ending into an exit status.

0 is success, 1 refused or failed, 2 a usage error, 130 an interrupt. An expected error is one message on stderr; an
unexpected one is one line that names the file with the traceback. `MMREC_DEBUG=1` shows tracebacks on the screen.

A subcommand is an entry point of the group `mmrec.commands` whose object is `register(app: typer.Typer) -> None`. It
must be light to import: what needs torch is imported inside the command. One that cannot be loaded stays in the help
as unavailable and does not disturb the others.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Annotated, NoReturn

import click
import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from mmrec_model.errors import MmrecError

COMMAND_GROUP = "mmrec.commands"
DEBUG_VARIABLE = "MMREC_DEBUG"
FAILED, INTERRUPTED = 1, 130
_ANY_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


class UnavailableCommand(MmrecError):
    """A subcommand is installed but cannot be loaded."""


class _Interruptible(TyperGroup):
    """Ends an interrupted command with status 130; typer alone would say 1, as for a failure."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(_report_interrupt()) from None


def main() -> NoReturn:
    """Run `mmrec` with the arguments of the process and exit."""
    try:
        build_app(entry_points(group=COMMAND_GROUP))()
    except MmrecError as error:
        _show_debug_traceback(error)
        _complain(f"Error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_report_interrupt())
    except Exception as error:
        _show_debug_traceback(error)
        _complain(f"Unexpected {type(error).__name__}; the traceback is in {_keep_traceback(error)}")
        sys.exit(FAILED)
    sys.exit(0)


def build_app(commands: Iterable[EntryPoint]) -> typer.Typer:
    """The application with these subcommands, in order of name."""
    app = typer.Typer(
        cls=_Interruptible,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for command in sorted(commands, key=lambda entry: entry.name):
        _attach(app, command)
    return app


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - called by typer
    if wanted:
        try:
            typer.echo(f"mmrec {version('mmrec')}")
        except PackageNotFoundError:
            typer.echo("mmrec (not installed)")
        raise typer.Exit


def _root(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Private, federated, multimodal recommendation."""


def _attach(app: typer.Typer, command: EntryPoint) -> None:
    try:
        command.load()(app)
    except Exception as error:
        _attach_unavailable(app, command, error)


def _attach_unavailable(app: typer.Typer, command: EntryPoint, cause: Exception) -> None:
    reason = f"{type(cause).__name__}: {cause}"

    @app.command(command.name, help=f"(unavailable: {escape(reason)})", context_settings=_ANY_ARGUMENTS)
    def refuse(_context: typer.Context) -> None:
        raise UnavailableCommand(
            f"`mmrec {command.name}` ({command.value}) cannot be loaded, {reason}",
            remedy="Install the package it comes from again, with its dependencies",
        ) from cause


def _report_interrupt() -> int:
    _complain("Interrupted.")
    return INTERRUPTED


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(message, style="red", markup=False, highlight=False)


def _show_debug_traceback(error: Exception) -> None:
    if os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}:
        traceback.print_exception(error, file=sys.stderr)


def _keep_traceback(error: Exception) -> Path:
    handle, name = tempfile.mkstemp(prefix="mmrec-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        traceback.print_exception(error, file=stream)
    return Path(name)


if __name__ == "__main__":
    main()
