"""What tests and benchmarks find in the environment."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from atom_sansio import Options

OPTIONS = {f"ATOM_{field.name.upper()}" for field in dataclasses.fields(Options)}


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run *script* where every option is set."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **dict.fromkeys(OPTIONS, "no such value"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_option_is_set() -> None:
    """No tracker of a test has an option, such as a backlog, that the test does not give it."""
    assert not OPTIONS & os.environ.keys()


def test_options_that_are_set_are_not_seen() -> None:
    """Likewise where they are set for other programs; what is set for the tests themselves is left."""
    own = {"ATOM_FAULTS_EVERY": "1", "ATOM_FAULTS_SECONDS": "60", "ATOM_SIMULATE_SECONDS": "60", "ATOM_TEST_KILLS": "9"}
    script = "import os, sys, pytest\nstatus = pytest.main(sys.argv[1:])\nprint(*os.environ)\nsys.exit(status)\n"
    test = f"{__file__}::{test_no_option_is_set.__name__}"
    result = run(script, "-q", "--no-cov", "-p", "no:cacheprovider", test, **own)
    assert result.returncode == 0, result.stdout + result.stderr
    assert own.keys() <= set(result.stdout.splitlines()[-1].split())


def test_benchmarks_have_their_own_options() -> None:
    """Nor does a tracker that is measured."""
    result = run("import os, tests.benchmarks; print(*os.environ)")
    assert result.returncode == 0, result.stderr
    assert not OPTIONS & set(result.stdout.split())
