# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Serves a package until SIGTERM; answers what it accepted before it ends."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import uvicorn

from .._runtime import Error
from ..llm import LLM
from .app import create_app
from .chat import find_template
from .options import from_arguments, parser


class _Server(uvicorn.Server):
    """Tells /ready first when it is told to end."""

    def __init__(self, config: uvicorn.Config, state) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig, frame) -> None:
        """Stop listening; what was accepted is answered."""
        self._state.draining = True
        super().handle_exit(sig, frame)


def _allow_connections() -> None:
    """Take as many open files as the system gives: each client is one."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args()
    options = from_arguments(arguments)
    package = Path(arguments.package)
    try:
        find_template(package, options.chat_template)
        engine = options.engine
        llm = LLM(package, threads=arguments.threads, **vars(engine))
    except (Error, OSError, ValueError) as error:
        print(f"qlm.serve: error: {error}", file=sys.stderr)
        return 1
    _allow_connections()
    app = create_app(llm, package, options)
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        log_level=arguments.log_level,
        access_log=arguments.log_level == "debug",
        timeout_graceful_shutdown=int(arguments.drain_timeout),
        backlog=4096,
    )
    _Server(config, app.state.server).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
