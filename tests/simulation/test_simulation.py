"""Whatever goes wrong around it, the core keeps its promises; and the simulator sees when it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import bugs
from tests.simulation.world import World

pytestmark = pytest.mark.uncovered
"""It takes half of the time, and what is tested here is not which lines are run."""

SEEDS = [1, 4, 5, 22, 30, 1003]
"""Runs that found something once, in the core or in the simulator."""

SECONDS = float(os.environ.get("ATOM_SIMULATE_SECONDS", "60"))
"""Real time for seeds that nobody has chosen."""

STARTS = [50_000, 60_000_000]
"""Their first ones: one for each process."""

FEW = ["01-retry-with-another-id", "07-split-loses-an-event", "16-timer-not-rearmed", "23-mark-one-too-far"]
"""The planted bugs that are looked for unless ``ATOM_SIMULATE_BUGS=all`` is set; that takes some minutes."""


@pytest.mark.parametrize("seed", SEEDS)
def test_known_seed(seed: int) -> None:
    """No invariant is broken in a run that once broke one."""
    World(seed, events=5_000).run()


def test_more_seeds() -> None:
    """No invariant is broken in as many runs as fit into that time, in two processes of their own."""
    command = [sys.executable, "-m", "tests.simulation", "--minutes", str(SECONDS / 60)]
    processes = [
        subprocess.Popen(
            [*command, "--seed", str(seed)], cwd=bugs.ROOT, env=bugs.uncovered(), stdout=subprocess.PIPE, text=True
        )
        for seed in STARTS
    ]
    said = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(said)


def test_replay() -> None:
    """The same seed does the same, to the last word between the core and the world."""
    assert World(4, events=5_000).run() == World(4, events=5_000).run()


@pytest.mark.parametrize("seed", [114, 160, 1098])
def test_seeds_that_found_faults(seed: int) -> None:
    """What was found once is not there again: drop_oldest lost sight of events that wait behind others."""
    World(seed, events=5_000).run()


@pytest.mark.parametrize("seed", [1, 3, 20, 82])
def test_seeds_that_found_faults_beside_a_backlog(seed: int) -> None:
    """What was found once is not there again: at a stop on a full disk callers waited for ever, and flushes lied."""
    World(seed, events=2_500).run()


@pytest.mark.parametrize("seed", [200_100_701, 200_000_295])
def test_long_runs_that_found_faults(seed: int) -> None:
    """What was found once is not there again: late events were lost for want of room, split batches kept twice."""
    World(seed).run()


@pytest.mark.parametrize(
    ("seed", "events"),
    [
        (277, 2_500),
        (50121, 2_000),
        (50137, 2_000),
        (2_000_031, 2_500),
        (71_000_011, 100_000),
        (90_000_042, 100_000),
        (200_200_487, 100_000),
        (500_300_010, 100_000),
        (1_600_200_097, 2_500),
        (1_600_500_087, 2_500),
        (1_800_300_040, 100_000),
        (2_251_900_082, 2_500),
    ],
)
def test_seeds_that_found_the_simulator_wrong(seed: int, events: int) -> None:
    """What the simulator complained of without reason is none of the core's faults."""
    World(seed, events=events).run()


@pytest.mark.parametrize("name", bugs.names() if os.environ.get("ATOM_SIMULATE_BUGS") == "all" else FEW)
def test_planted_bug(name: str) -> None:
    """A bug that is put into a copy of the core is found in a minute (all: python -m tests.simulation --bugs)."""
    _, said = bugs.find(name)
    assert said.startswith("seed ")


@pytest.mark.parametrize("name", bugs.names())
def test_planted_bugs_fit(name: str, tmp_path: Path) -> None:
    """Each planted bug still fits the core as it is."""
    shutil.copytree(bugs.ROOT / "atom_sansio", tmp_path / "atom_sansio")
    bugs.apply((bugs.HERE / f"{name}.patch").read_text(encoding="utf-8"), tmp_path)
