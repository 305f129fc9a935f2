"""The command line `reclaimd`: flags to settings, values to tables or JSON, errors to one line and an exit code.

0 done, 1 found a problem, 2 usage, 3 Redis is no use; 130 interrupted, 141 nobody reads the output any more.
"""

import os
import sys

INTERRUPTED = 130
BROKEN_PIPE = 141


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    try:
        sys.exit(_run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(arguments: list[str]) -> int:
    # Imported here, so that Ctrl-C during the import ends as quietly as later.
    from reclaimd.daemon.cli.app import ABORTED, USAGE_ERROR, app
    from reclaimd.daemon.cli.complaints import OutputClosed, complain, complain_of_usage
    from reclaimd.streams.errors import ReclaimdError

    as_json = "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    try:
        code = app(args=arguments, prog_name="reclaimd", standalone_mode=False)
        sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        # Python flushes stdout once more at exit, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ABORTED:
        return INTERRUPTED
    except ReclaimdError as error:
        return complain(error, as_json=as_json)
    except USAGE_ERROR as error:
        return complain_of_usage(error, as_json=as_json)
    return code if isinstance(code, int) else 0
