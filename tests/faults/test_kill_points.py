"""A program with a backlog is killed at every write, sync, rename, unlink and send that it makes.

``ATOM_FAULTS_EVERY=1`` kills at each of them; without it, at some that are spread over all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import calls
import pytest
from killed_programs import ForkServer, Network, check, start_again

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(bool(calls.WHY_NOT), reason=calls.WHY_NOT)]

EVERY = int(os.environ.get("ATOM_FAULTS_EVERY", "97"))
"""At which of the calls a program is killed: each one, each other one, ..."""

VARIANTS: dict[str, dict[str, Any]] = {
    "process": {"level": "process", "answers": "good"},
    "disk": {"level": "disk", "answers": "good"},
    "failing": {"level": "process", "answers": "failing"},
    "failing, disk": {"level": "disk", "answers": "failing"},
    "dead": {"level": "process", "answers": "dead", "flush": 0.05},
    "refused": {"level": "process", "answers": "choosy"},
    "generations": {"level": "process", "answers": "failing", "generation": 700},
    "generations, disk": {"level": "disk", "answers": "failing", "generation": 700},
    "spilled": {"level": "process", "answers": "failing", "window": 300, "flush": 1.0},
    "two trackers": {"level": "process", "answers": "failing", "trackers": 2},
    "memory": {"level": "memory", "answers": "failing"},
    "asyncio": {"level": "process", "answers": "failing", "program": "tasks"},
    "asyncio, disk": {"level": "disk", "answers": "failing", "program": "tasks", "generation": 700},
    "trio": {"level": "process", "answers": "failing", "program": "tasks", "backend": "trio"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.mark.parametrize("halfway", [False, True], ids=["before", "halfway"])
@pytest.mark.parametrize("name", VARIANTS)
def test_killed_at_a_call(server: ForkServer, network: Network, tmp_path: Path, name: str, halfway: bool) -> None:
    """What was accepted arrives, in order, none of it twice, and nothing that was never tracked.

    Every third time the program that comes next is killed, too.
    """
    variant = {"program": "threads", **VARIANTS[name]}
    answers = variant.pop("answers")
    # The points of the two ways, and of the variants, are not the same ones.
    at = 1 + (list(VARIANTS).index(name) * 5 + 11 * halfway) % EVERY
    points = accepted = again = 0
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        peer = f"{name}-{halfway}-{at}".replace(" ", "")
        plan = {**variant, "directory": str(directory), "url": network.add(peer, answers), "halfway": halfway}
        over = server.run(**plan, run=0, at=at) is not None
        points += not over
        if at % 3 == 0:
            killed = server.run(**plan, run=1, at=1 + at * 7 % 97) is None
            points += killed
            again += killed
        start_again(directory, network.peers[peer], variant["level"])
        accepted += check(directory, network.peers.pop(peer), lossless=variant["level"] != "memory")
        shutil.rmtree(directory)
        if over:
            break
        at += EVERY
    print(f"killed {points} times, {again} of these when started again; {accepted} events were accepted")
