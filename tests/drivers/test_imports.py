"""What importing a driver costs: nothing is loaded before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NETWORK = {"anyio", "asyncio", "concurrent", "http", "socket", "ssl", "urllib.request"}
EXTRAS = {"click", "httpx", "hypothesis", "rich", "sqlite3", "starlette", "trio", "uvicorn", "uvloop"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import atom_sync", NETWORK | EXTRAS),
        ("import atom_sync; atom_sync.Tracker('https://h/', auth_key='k').statistics()", NETWORK | EXTRAS),
        ("import atom_sync.cli", NETWORK | EXTRAS),
        ("import atom_anyio", EXTRAS),  # anyio itself loads asyncio, socket and ssl
        # logging.handlers loads socket
        ("import ironsource.atom.ironsource_atom_tracker", EXTRAS | {"anyio", "asyncio", "concurrent", "http", "ssl"}),
    ],
)
def test_nothing_is_loaded_too_early(statement: str, unwanted: set[str]) -> None:
    """Neither the network nor an extra is loaded by a program that has not sent anything yet."""
    loaded = modules_after(statement) - modules_after("pass")
    assert any(name.startswith("atom_sansio") for name in loaded)
    assert loaded & unwanted == set()
