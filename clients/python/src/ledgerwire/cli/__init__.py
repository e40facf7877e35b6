"""The command line of the client: `ledgerwire watch | report | cancel`.

Beside a gateway it is found by the entry points `ledgerwire.commands`; alone it is `ledgerwire-client`. Exit statuses
are in `outcome`, and in the help.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from ledgerwire import errors
from ledgerwire.cli import outcome, reporting, watching
from ledgerwire.cli.options import Wrong, address_of, gateway_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, which its `arguments` begin with (None: those of this process); returns the exit status."""
    try:
        options = _parser("ledgerwire-client" if arguments is None else "ledgerwire").parse_args(arguments)
        logging.basicConfig(format="ledgerwire: %(message)s", level=logging.WARNING)
        return int(asyncio.run(options.run(address_of(options), options)))
    except KeyboardInterrupt:
        return outcome.INTERRUPTED
    except BrokenPipeError:
        # Who read has gone. What is still buffered must not be written at the end of the program.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return outcome.BROKEN_PIPE
    except Wrong as error:
        sentence, status = str(error), outcome.WRONG
    except errors.LedgerwireError as error:
        sentence, status = str(error), outcome.of_error(error)
        if isinstance(error, errors.Unauthenticated):
            sentence += " The token is LEDGERWIRE_TOKEN, or the first line of --token-file FILE."
    sys.stderr.write(f"ledgerwire: {sentence}\n")
    return status


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Watch, report and cancel tasks of a Ledgerwire gateway.",
        epilog=outcome.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # else `--token SECRET` would be taken for --token-file, and the secret be printed
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add, run, sentence in (
        ("watch", watching.options, watching.watch, "show tasks as they go on, until all have ended"),
        ("report", reporting.report_options, reporting.report, "report one change of a task"),
        (
            "cancel",
            reporting.cancel_options,
            reporting.cancel,
            "ask that a task be cancelled, and show the outcome",
        ),
    ):
        verb = verbs.add_parser(
            name,
            help=sentence,
            description=sentence[0].upper() + sentence[1:] + ".",
            epilog=outcome.EXPLAINED,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add(verb)
        gateway_options(verb)
        verb.set_defaults(run=run)
    return parser
