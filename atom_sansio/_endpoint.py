"""Where the collector is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ._messages import Origin

_NAME: Final = re.compile(r"[A-Za-z0-9._~-]+")
_ADDRESS_6: Final = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A collector's base URL, taken apart."""

    origin: Origin
    path: str
    """What comes before ``/`` and ``/bulk``: empty, or begins with a slash and does not end in one."""

    def __str__(self) -> str:
        return f"{self.origin.scheme}://{self.origin.authority}{self.path}/"

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Take *url* apart; a trailing slash makes no difference.

        Raises:
            TypeError: *url* is no string.
            ValueError: no http(s) URL with a host, or one with user info, query or fragment.  The
                message does not repeat the URL, since user info may be a secret.
        """
        if not isinstance(url, str):
            raise TypeError(f"endpoint must be a str, not {type(url).__name__}")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("endpoint must be a URL in printable ASCII without spaces (use punycode and %XX)")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Not chained: of a password with a slash in it the message would quote a part, as the port.
            raise ValueError("endpoint is no URL, or its port is not between 1 and 65535") from None
        if parts.scheme not in ("http", "https"):
            raise ValueError("endpoint must begin with http:// or https://")
        if "@" in parts.netloc:
            raise ValueError("endpoint must not hold user info")
        if "?" in url or "#" in url:
            raise ValueError("endpoint must have neither query nor fragment")
        host = parts.hostname
        if not host or not (_ADDRESS_6 if "[" in parts.netloc else _NAME).fullmatch(host):
            raise ValueError("endpoint must name a host")
        if port == 0:
            raise ValueError("endpoint's port must be between 1 and 65535, not 0")
        path = parts.path.rstrip("/")
        if not _PATH.fullmatch(path):
            raise ValueError("endpoint's path has a character that a URL path cannot have")
        return cls(Origin(parts.scheme, host, port or {"http": 80, "https": 443}[parts.scheme]), path)
