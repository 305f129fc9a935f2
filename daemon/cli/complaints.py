"""How a command says that something is wrong: one line on standard error, with what to do about it."""

import json
import sys

from reclaimd.streams.errors import ReclaimdError

USAGE = 2


class OutputClosed(Exception):
    """Nobody reads standard output any more. No OSError: those would be taken for Redis's, or by the parser."""


class UsageProblem(ReclaimdError):
    """Arguments that the parser accepts and the command does not; says what to do like all errors."""

    exit_code = USAGE


def complain(error: ReclaimdError, *, as_json: bool) -> int:
    """Say it; returns the exit code."""
    return _say(str(error), getattr(error, "cure", None), error.exit_code, as_json=as_json)


def complain_of_usage(error: Exception, *, as_json: bool) -> int:
    """The same for arguments that the parser refused."""
    format_message = getattr(error, "format_message", None)
    message = " ".join(str(format_message() if format_message else error).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    cure = f"see {context.command_path if context else 'reclaimd'} --help"
    if not message or "\n" in str(error):
        # The parser's answer to a group without a command: its help text is the message.
        print(error, file=sys.stderr)
        return USAGE
    return _say(f"{message}: {cure}", cure, USAGE, as_json=as_json)


def _say(text: str, cure: str | None, code: int, *, as_json: bool) -> int:
    """Messages of the project end in `: what to do`."""
    line = " ".join(text.split())
    print(f"reclaimd: {line}", file=sys.stderr)
    if as_json:
        told = cure or line.rpartition(": ")[2]
        head = line.removesuffix(told).rstrip().removesuffix(":") or line
        print(json.dumps({"error": head, "cure": told}))
    return code
