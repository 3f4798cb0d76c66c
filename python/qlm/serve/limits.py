# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Errors, keys and the largest body, around all routes."""

from __future__ import annotations

import hashlib
import hmac
import json

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """Becomes an answer in OpenAI's form.

    Parameters
    ----------
    status : int
        The HTTP status.
    message : str
    param, code : str, optional
        The field at fault, and a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict:
        """Return the answer's body."""
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def client_of(key: str, user: str | None) -> int:
    """Return a number for whose request it is; never 0.

    Examples
    --------
    >>> client_of("k", None) == client_of("k", None)
    True
    >>> client_of("k", "a") == client_of("k", "b")
    False
    """
    text = json.dumps([key, user]).encode()
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:7], "little") + 1


def key_of(header: str | None) -> str:
    """Return the key of an Authorization header; empty if there is none."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def is_allowed(key: str, keys: tuple[str, ...]) -> bool:
    """Whether a key is one of those allowed, in a time that tells nothing."""
    given = key.encode("utf-8", "replace")
    matches = [hmac.compare_digest(given, each.encode()) for each in keys]
    return not keys or any(matches)


class Guard:
    """ASGI middleware that asks for a key and counts answers.

    Parameters
    ----------
    app : ASGI application
    keys : tuple of str
        Keys allowed; none allows everybody.
    count : callable
        Called with the path and the status of each answer.
    """

    def __init__(self, app, keys: tuple[str, ...], count) -> None:
        self.app = app
        self.keys = keys
        self.count = count

    async def __call__(self, scope, receive, send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]

        async def watch(message):
            if message["type"] == "http.response.start":
                self.count(path, message["status"])
            await send(message)

        header = dict(scope["headers"]).get(b"authorization", b"")
        key = key_of(header.decode("latin-1"))
        if path.startswith("/v1/") and not is_allowed(key, self.keys):
            error = ApiError(
                401, "the API key is wrong or missing", code="invalid_api_key"
            )
            await answer(watch, error, [(b"www-authenticate", b"Bearer")])
            return
        await self.app(scope, receive, watch)


async def answer(send, error: ApiError, headers: list | None = None) -> None:
    """Send an error as the whole answer."""
    body = json.dumps(error.body()).encode()
    await send({
        "type": "http.response.start",
        "status": error.status,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *(headers or []),
        ],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": body})


class BodyLimit:
    """ASGI middleware that refuses large bodies before they are read.

    Parameters
    ----------
    app : ASGI application
    most : int
        Bytes of a body.
    """

    def __init__(self, app, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope, receive, send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most:
            await self._refuse(send)
            return
        read, refused, begun = 0, False, False

        async def count():
            nonlocal read, refused
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self.most and not refused:
                    refused = True
                    if not begun:
                        await self._refuse(send)
            if refused:
                return {"type": "http.disconnect"}
            return message

        async def forward(message):
            nonlocal begun
            begun = True
            if not refused:
                await send(message)

        try:
            await self.app(scope, count, forward)
        except Exception:
            if not refused:  # else it is the cut body's
                raise

    async def _refuse(self, send) -> None:
        error = ApiError(413, f"the body has more than {self.most} bytes")
        await answer(send, error, [(b"connection", b"close")])
