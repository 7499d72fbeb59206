"""Who may ask the server: this machine's browser, with the token, from the page itself. And what every answer says.

A page of somebody else's can send requests to 127.0.0.1 too, by a name that it has point there (DNS rebinding) or by a
form: so the Host has to be one of ours, everything needs the token, and what changes something needs our Origin.
"""

from __future__ import annotations

import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
SAFE = ("GET", "HEAD")


class Guard:
    """ASGI middleware around the app; `port` is set once it is known."""

    def __init__(self, app: Any) -> None:
        self.app, self.port, self.token = app, 0, secrets.token_urlsafe(32)

    @property
    def url(self) -> str:
        """What opens the page, once: with the token, which then becomes a cookie."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in names]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await (self.refused(scope) or self.app)(scope, receive, marked)

    def refused(self, scope: Any) -> Any:
        """The answer to a request that may not pass; None where it may."""
        hosts = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        host = header(scope, b"host")
        if host not in hosts:
            return PlainTextResponse("this server answers to its own address alone", 421)
        if header(scope, b"sec-fetch-site") not in (None, "same-origin", "none"):
            return PlainTextResponse("a page of somebody else's may not ask this server", 403)
        if scope["path"] == "/" and scope["method"] in SAFE:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if given and self.fits(given):
                answer = RedirectResponse("/", 303)
                answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
                return answer
        try:
            cookie = SimpleCookie(header(scope, b"cookie") or "").get(self.cookie)
        except CookieError:
            cookie = None
        if cookie is None or not self.fits(cookie.value):
            return PlainTextResponse("open the address that `dropmae web` printed, with its token", 403)
        if scope["method"] not in SAFE:
            origin = header(scope, b"origin")
            if origin is None and header(scope, b"sec-fetch-site") is None:
                return PlainTextResponse("what changes something must say where it comes from", 403)
            if origin is not None and origin != f"http://{host}":
                return PlainTextResponse("a page of somebody else's may not change anything here", 403)
        return None

    @property
    def cookie(self) -> str:
        return f"dropmae_{self.port}"  # cookies ignore ports: two servers on one machine have two cookies

    def fits(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


def header(scope: Any, name: bytes) -> str | None:
    """The value of a header; None where it is missing, empty where it is there twice, which fits nothing."""
    found = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return None if not found else found[0] if len(found) == 1 else ""
