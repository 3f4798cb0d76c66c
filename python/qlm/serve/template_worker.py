# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Renders chat templates in a process of its own.

A template comes with a model, from wherever that came from. It runs in Jinja's
sandbox, without files and imports; and in this process, whose memory is limited
and whose processor time too, for each chat; its parent kills it when even that
doesn't end it. Each line of standard input is a JSON object with ``template``,
``values`` and ``seconds``; each line of standard output one with ``text`` or
``error``.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import sys

MEMORY = 512 << 20
LONGEST = 8 << 20
"""Characters that a rendered chat may have."""


class TooLong(BaseException):
    """The chat's processor time is over; no `except Exception` stops it."""


def environment():
    """Return a sandbox with what models' templates use."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None,
               sort_keys=False):  # fmt: skip
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    result = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    result.filters["tojson"] = tojson
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = lambda form: (
        datetime.datetime.now().strftime(form)
    )
    return result


def render(environment, task: dict) -> dict:
    """Render one chat."""
    # Processor time: a busy machine makes no template a bad one.
    signal.setitimer(signal.ITIMER_PROF, task["seconds"])
    try:
        template = environment.from_string(task["template"])
        parts, length = [], 0
        for part in template.generate(**task["values"]):
            length += len(part)
            if length > LONGEST:
                return {"error": f"gives more than {LONGEST} characters"}
            parts.append(part)
        return {"text": "".join(parts)}
    except TooLong:
        return {"late": True}
    except MemoryError:
        return {"error": "takes too much memory"}
    except RecursionError:
        return {"error": "nests too deeply"}
    except Exception as error:  # of the template's own making
        return {"error": " ".join(str(error).split())[:500]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer until standard input ends."""
    def stop(*_):
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    sandbox = environment()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        print(json.dumps(render(sandbox, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
