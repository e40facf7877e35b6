"""`python -m examples.stdlib_index`: this example's page and worker, in one process on its own port."""

from __future__ import annotations

import argparse
import logging
import sysconfig
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from examples.stdlib_index.backend import Settings, make_app
from examples.stdlib_index.indexer import PACES
from examples.stdlib_index.jobs import Plan

NOT_THERE = "a-folder-that-is-not-there"


def gateway_url(text: str) -> str:
    """A WebSocket URL that may go into a header and to every page; argparse reports what is wrong with it."""
    parts = urlsplit(text)
    plain = text.isascii() and text.isprintable() and not set(text) & set(" ;,'\"")
    if parts.scheme not in {"ws", "wss"} or not parts.hostname or parts.username or not plain:
        raise argparse.ArgumentTypeError("give a URL such as ws://127.0.0.1:8080/v1/ws")
    return text


def main() -> None:
    """Read the options and serve until a signal comes."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.stdlib_index",
        description="Index the Python standard library as a task of a Ledgerwire gateway, and watch it.",
    )
    parser.add_argument("--gateway", type=gateway_url, default="ws://127.0.0.1:8080/v1/ws", metavar="URL")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", type=Path, help="index this folder instead of the standard library")
    parser.add_argument("--packages", default="", help="only these top-level packages, separated by commas")
    parser.add_argument(
        "--pace",
        choices=PACES,
        default="auto",
        help="how deeply files are read: syntax trees (quick), tokens too (steady), bytecode too (thorough);"
        " auto takes one of the last two, by how much there is to read",
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="run so many at once; more wait")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    folder = (options.folder or Path(sysconfig.get_path("stdlib"))).absolute()
    packages = tuple(filter(None, options.packages.split(",")))
    settings = Settings(
        gateway=options.gateway,
        folders={"library": folder, "missing": folder.parent / NOT_THERE},
        plan=Plan(packages=packages, pace=options.pace, at_once=options.jobs),
    )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    web.run_app(make_app(settings), host=options.host, port=options.port, print=None)


if __name__ == "__main__":
    main()
