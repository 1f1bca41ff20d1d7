"""Pages of this server, with headers that let them do nothing but talk to it: the chat page, and /docs.

A page's Content-Security-Policy names the hash of its own script and style, so nothing else runs, and Trusted
Types forbid the script to make markup out of texts. Pages have no secret in them and need no key.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import Response

PAGE = Path(__file__).with_name("chat.html")
_FEATURES = ("camera", "display-capture", "geolocation", "microphone", "payment", "usb")


class Page:
    """A page as it was when the server began, and its headers.

    Args:
        text: of the page; None for the chat page's file.
    """

    def __init__(self, text: str | None = None) -> None:
        self._body = PAGE.read_bytes() if text is None else text.encode()
        self._headers = {
            "content-security-policy": _policy(self._body.decode()),
            "cache-control": "no-cache",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": ", ".join(f"{name}=()" for name in _FEATURES),
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }

    async def show(self) -> Response:
        return Response(self._body, headers=self._headers, media_type="text/html; charset=utf-8")


def _policy(page: str) -> str:
    """What the page may do (https://www.w3.org/TR/CSP3/)."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "img-src data:",  # its icon
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hashes(page: str, tag: str) -> str:
    """Of the text between the tags, as a browser computes them."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
