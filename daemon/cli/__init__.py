"""The command line `reclaimd`: flags to settings, values to tables or JSON, errors to one line and an exit code.

0 done, 1 found a problem, 2 usage, 3 Redis is no use; 130 interrupted, 141 nobody reads the output any more.
"""

import os
import sys

INTERRUPTED = 130
BROKEN_PIPE = 141


class OutputClosed(Exception):
    """Nobody reads standard output any more. No OSError: those would be taken for Redis's, or by the parser."""


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    try:
        sys.exit(_run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(arguments: list[str]) -> int:
    # Imported here, so that Ctrl-C during the import ends as quietly as later.
    from reclaimd.daemon.cli.app import ABORTED, app

    try:
        code = app(args=arguments, prog_name="reclaimd", standalone_mode=False)
        sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        # Python flushes stdout once more at exit, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ABORTED:
        return INTERRUPTED
    except Exception as error:
        # Only now: the errors' module brings half of the project along, which `version` does without.
        from reclaimd.daemon.cli.complaints import complain

        code = complain(error, as_json=_wants_json(arguments))
        if code is None:
            raise
    return code if isinstance(code, int) else 0


def _wants_json(arguments: list[str]) -> bool:
    """Also when the parser gave up before it came to the flag."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own
