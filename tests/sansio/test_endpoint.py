"""A collector's URL taken apart: a table of tricks."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from atom_sansio import Endpoint, Origin


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("http://h", "http", "h", 80, ""),
        ("http://h/", "http", "h", 80, ""),
        ("https://h///", "https", "h", 443, ""),
        ("HTTP://Collector.Example:3000/Base/", "http", "collector.example", 3000, "/Base"),
        ("https://h:443/a/b", "https", "h", 443, "/a/b"),
        ("http://h:/", "http", "h", 80, ""),
        ("http://[::1]:3000/", "http", "::1", 3000, ""),
        ("http://[::ffff:10.0.0.1]", "http", "::ffff:10.0.0.1", 80, ""),
        ("http://10.0.0.1:65535", "http", "10.0.0.1", 65535, ""),
        ("http://h_1.xn--9ca/%41;v=1/~a,b", "http", "h_1.xn--9ca", 80, "/%41;v=1/~a,b"),
        ("http://h//a//", "http", "h", 80, "//a"),
        ("http://h/X/", "http", "h", 80, "/X"),
        ("http://[fe80::1%eth-0]/", "http", "fe80::1%eth-0", 80, ""),
        ("http://h/a*b+c!$&'()=:@-._~%2F", "http", "h", 80, "/a*b+c!$&'()=:@-._~%2F"),
        ("http://h/@x:y", "http", "h", 80, "/@x:y"),
    ],
)
def test_taken(url: str, scheme: str, host: str, port: int, path: str) -> None:
    """Scheme, host, port and path are told apart, and slashes at the end make no difference."""
    endpoint = Endpoint.parse(url)
    assert endpoint == Endpoint(Origin(scheme, host, port), path)
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert str(endpoint).endswith("/")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with http"),
        ("//h", "must begin with http"),
        ("h:80", "must begin with http"),
        ("ftp://h/", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        ("javascript:alert(1)", "must begin with http"),
        ("http:h", "must name a host"),
        ("http:/h", "must name a host"),
        ("http:///p", "must name a host"),
        ("http://:80/", "must name a host"),
        ("http://h;x/", "must name a host"),
        ("http://a\\b/", "must name a host"),
        ("http://a%41/", "must name a host"),
        ("http://a,b/", "must name a host"),
        ("http://[v1.abc]/", "must name a host"),
        ("http://::1/", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://[1:]/", "(must name a host|is no URL)"),  # newer Pythons look at addresses themselves
        ("http://[fe80::1%]/", "(must name a host|is no URL)"),
        ("http://h:65536/", "is no URL"),
        ("http://h:-1/", "is no URL"),
        ("http://h:80a/", "is no URL"),
        ("http://h:0/", "port must be between 1 and 65535, not 0"),
        ("http://user@h/", "user info"),
        ("http://user:pass@h/", "user info"),
        ("http://@h/", "user info"),
        ("http://h\\@evil/", "user info"),
        ("http://h/?", "neither query nor fragment"),
        ("http://h/?a=b", "neither query nor fragment"),
        ("http://h/#", "neither query nor fragment"),
        ("http://h/#f", "neither query nor fragment"),
        ("http://h/a b", "printable ASCII"),
        ("http://h/\r\nX: y", "printable ASCII"),
        ("http://h/\t", "printable ASCII"),
        (" http://h/", "printable ASCII"),
        ("http://é.example/", "printable ASCII"),
        ("http://h/ü", "printable ASCII"),
        ("http://h\x00/", "printable ASCII"),
        ('http://h/"', "a character that a URL path cannot have"),
        ("http://h/<x>", "a character that a URL path cannot have"),
        ("http://h/a\\b", "a character that a URL path cannot have"),
    ],
)
def test_refused(url: str, message: str) -> None:
    """What is no plain http(s) URL of a host is refused in words that say what is wanted."""
    with pytest.raises(ValueError, match=f"endpoint.*{message}"):
        Endpoint.parse(url)


def test_an_endpoint_is_a_value() -> None:
    """An endpoint can be a key of a dict, and cannot be changed."""
    endpoint = Endpoint.parse("http://h/")
    assert {endpoint: 1}[Endpoint.parse("http://h")] == 1
    with pytest.raises(AttributeError):
        endpoint.path = "/other"  # type: ignore[misc]
    assert not hasattr(endpoint, "__dict__")


@pytest.mark.parametrize("url", [None, b"http://h/", 1, ["http://h/"]])
def test_type(url: Any) -> None:
    """What is no string is refused by its type."""
    with pytest.raises(TypeError, match=f"endpoint must be a str, not {type(url).__name__}"):
        Endpoint.parse(url)


@pytest.mark.parametrize(
    "url",
    ["http://u:canary@h/", "http://u:canary/x@h/", "http://u:canary#x@h/", "http://u:can ary@h/", "ftp://u:canary@h"],
)
def test_secrets(url: str) -> None:
    """No part of the URL is in the traceback, since it may be a password."""
    with pytest.raises(ValueError, match=r"^endpoint") as caught:
        Endpoint.parse(url)
    shown = "".join(traceback.format_exception_only(caught.type, caught.value))
    shown += "".join(traceback.format_exception(caught.value.__cause__)) if caught.value.__cause__ else ""
    assert caught.value.__cause__ is None
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("http", "h", 80), "h"),
        (Origin("https", "h", 443), "h"),
        (Origin("http", "h", 443), "h:443"),
        (Origin("https", "::1", 80), "[::1]:80"),
        (Origin("http", "::1", 80), "[::1]"),
    ],
)
def test_authority(origin: Origin, authority: str) -> None:
    """The Host header has the port only where it is not the scheme's own, and brackets for IPv6."""
    assert origin.authority == authority
