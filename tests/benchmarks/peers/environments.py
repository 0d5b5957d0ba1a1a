"""The peers, their versions, and a virtual environment for each, made when it is first asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPTS = Path(__file__).with_name("scripts")
INSTALL_TIMEOUT = 600


class PeerFailedError(Exception):
    """A peer could not be measured; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A row of the comparison."""

    name: str
    script: str
    requirements: tuple[str, ...] = ()
    """The first one's version is shown; none for ours, which runs in this very environment."""
    options: tuple[str, ...] = ()
    share: float = 1.0
    """Events of a run as a multiple of what is asked for: many of what is quick, few of what is slow."""
    needle: str = "string_value"
    """What a body has once an event: this key of it, unless the wire hides it."""
    modes: frozenset[str] = frozenset({"cpu", "burst", "memory"})

    @property
    def version(self) -> str | None:
        """The pinned version."""
        return self.requirements[0].partition("==")[2] if self.requirements else None


LIMIT = Peer("limit loop, 64 a batch", "peer_limit.py", options=("64",), share=10, modes=frozenset({"cpu"}))

PEERS = (
    Peer("atom_sync.Tracker", "peer_atom.py", share=10),
    Peer("atom_sync.Tracker, 64 a batch", "peer_atom.py", options=("64",), share=10),
    Peer("confluent-kafka", "peer_kafka.py", ("confluent-kafka==2.16.1",), share=5),
    Peer("snowplow-tracker", "peer_snowplow.py", ("snowplow-tracker==1.1.0",), needle='"ue_px"'),
    # It blocks instead of keeping anything.
    Peer("mixpanel", "peer_mixpanel.py", ("mixpanel==5.4.1",), modes=frozenset({"cpu", "burst"})),
    Peer(
        "opentelemetry-sdk",
        "peer_opentelemetry.py",
        ("opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp-proto-http==1.45.2"),
    ),
    Peer("segment-analytics-python", "peer_segment.py", ("segment-analytics-python==2.4.0",)),
    Peer("amplitude-analytics", "peer_amplitude.py", ("amplitude-analytics==1.3.0",)),
    Peer("posthog", "peer_posthog.py", ("posthog==7.91.1",)),
    Peer("sentry-sdk", "peer_sentry.py", ("sentry-sdk==2.75.0",), share=0.1),
)


def default_cache() -> Path:
    """Where environments are kept between runs: the user's cache, or a temporary folder without one."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        base = Path(tempfile.gettempdir())
    return base / "atom-events-benchmarks"


def interpreter(peer: Peer, cache: Path) -> Path:
    """The Python that has *peer*, installed first if *cache* has it not.

    Raises:
        PeerFailedError: pip could not install it, or took ten minutes.
    """
    if not peer.requirements:
        return Path(sys.executable)
    folder = cache / f"{sys.implementation.cache_tag}-{peer.requirements[0].replace('==', '-')}"
    program = folder / "bin" / "python"
    done = folder / "installed"  # written last, so that an interrupted installation is begun again
    if not done.exists() or done.read_text().split() != list(peer.requirements):
        venv.create(folder, with_pip=True, clear=True)
        command = [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requirements]
        try:
            subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT, stdin=subprocess.DEVNULL, capture_output=True)
        except subprocess.CalledProcessError as error:
            raise PeerFailedError(f"pip: {last_line(error.stderr)}") from error
        except subprocess.TimeoutExpired as error:
            raise PeerFailedError(f"pip took more than {INSTALL_TIMEOUT} s") from error
        done.write_text("\n".join(peer.requirements))
    return program


def environment(peer: Peer) -> dict[str, str]:
    """Variables for *peer*'s process: none that a library would take a proxy, a key or a setting from."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"LANG": "C.UTF-8"} | ({} if peer.requirements else {"PYTHONPATH": str(ROOT)})


def last_line(output: bytes) -> str:
    """What a failed program said at the end."""
    return output.decode(errors="replace").strip().rpartition("\n")[2]
