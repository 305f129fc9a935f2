"""How a command says that something is wrong: one line on standard error, with what to do about it."""

import json
import sys

from reclaimd.daemon.cli.app import USAGE_ERROR
from reclaimd.streams.errors import ReclaimdError

USAGE = 2


class UsageProblem(ReclaimdError):
    """Arguments that the parser accepts and the command does not; says what to do like all errors."""

    exit_code = USAGE


def complain(error: Exception, *, as_json: bool) -> int | None:
    """Say it and return the exit code; None for what nobody foresaw, which deserves its traceback."""
    if isinstance(error, ReclaimdError):
        return _say(str(error), getattr(error, "cure", None), error.exit_code, as_json=as_json)
    if not isinstance(error, USAGE_ERROR):
        return None
    format_message = getattr(error, "format_message", None)
    text = str(format_message() if format_message else error)
    context = getattr(error, "ctx", None)
    cure = f"see {context.command_path if context else 'reclaimd'} --help"
    if not text.strip() or "\n" in text:
        # The parser's answer to a group without a command: it has printed the help text.
        print(text, file=sys.stderr)
        return USAGE
    return _say(f"{text.rstrip('.')}: {cure}", cure, USAGE, as_json=as_json)


def _say(text: str, cure: str | None, code: int, *, as_json: bool) -> int:
    """Messages of the project end in `: what to do`."""
    line = " ".join(text.split())
    print(f"reclaimd: {line}", file=sys.stderr)
    if as_json:
        told = cure or line.rpartition(": ")[2]
        head = line.removesuffix(told).rstrip().removesuffix(":") or line
        print(json.dumps({"error": head, "cure": told}))
    return code
