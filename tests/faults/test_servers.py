"""Under servers that load the program, tracker and all, before they fork their workers."""

from __future__ import annotations

import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from interrupted_programs import PATIENCE, Program, arrived, once, run, wait_until

REQUESTS = 60

APP = """
import os, sys
from atom_sync import Tracker

tracker = Tracker(os.environ["COLLECTOR"], flush_interval=float(os.environ["INTERVAL"]))
tracker.track("parent", "loaded")

def app(environ, start_response):
    tracker.track("requests", environ["PATH_INFO"])
    tracker.track("workers", os.getpid())
    start_response("200 OK", [])
    return [b"%d" % os.getpid()]
"""


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=PATIENCE) as reply:
        body: bytes = reply.read()
    return body


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs POSIX")
@pytest.mark.parametrize("kind", ["sync", "gthread"])
@pytest.mark.parametrize("interval", ["0.05", "3600"])
def test_gunicorn_preload(url: str, tmp_path: Path, kind: str, interval: str) -> None:
    """With --preload every worker delivers what its requests track, in time and by a graceful stop, the parent too."""
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # gunicorn takes over a socket that it is given
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        command = (sys.executable, "-W", "ignore", "-m", "gunicorn", "--preload", "--workers=3", "--threads=2")
        with Program(
            "",
            f"--worker-class={kind}",
            f"--bind=fd://{listener.fileno()}",
            "--worker-tmp-dir=.",
            "app:app",
            command=command,
            cwd=tmp_path,
            pass_fds=[listener.fileno()],
            environment={"COLLECTOR": url, "INTERVAL": interval},
        ) as program:
            workers = {int(get(f"{address}{n}")) for n in range(REQUESTS)}
            if interval != "3600":
                wait_until(lambda: sum(arrived(url, "requests").values()) == REQUESTS, "the requests' events arrive")
            program.process.send_signal(signal.SIGTERM)
            code, _, err = program.end()
    assert code == 0, err
    assert "Traceback" not in err
    assert arrived(url, "requests") == once(*(f"/{n}" for n in range(REQUESTS)))
    assert set(arrived(url, "workers")) == workers
    assert arrived(url, "parent") == once("loaded")
    print(f"{REQUESTS} requests to {len(workers)} workers")


TASKS = """
from pathlib import Path
from celery import Celery
from celery.signals import worker_process_shutdown
import os
from atom_sync import Tracker

box = {"data_folder_in": "box", "data_folder_out": "box", "control_folder": "control"}
app = Celery("tasks", broker="filesystem://")
app.conf.update(broker_transport_options=box, worker_max_tasks_per_child=5, worker_prefetch_multiplier=1)
tracker = Tracker(os.environ["COLLECTOR"], flush_interval=3600.0)
tracker.track("parents", os.getpid())

@worker_process_shutdown.connect
def deliver(**_):  # its processes end by os._exit(), which no library hears of
    tracker.stop()

@app.task
def work(n):
    tracker.track("tasks", n)
    Path("done", str(n)).touch()
"""

QUEUE = """
import tasks
for n in range(30):
    tasks.work.delay(n)
"""


def test_celery_prefork(url: str, tmp_path: Path) -> None:
    """Processes of a Celery worker, replaced after 5 tasks, lose nothing if told to stop the tracker at their end."""
    pytest.importorskip("celery")
    for name in ("box", "control", "done"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks.py").write_text(TASKS)
    options = {"cwd": tmp_path, "environment": {"COLLECTOR": url, "PYTHONPATH": str(tmp_path)}}
    celery = (sys.executable, "-W", "ignore", "-m", "celery", "--app=tasks", "worker", "--pool=prefork")
    command = (*celery, "--concurrency=2", "--without-gossip", "--without-mingle", "--without-heartbeat")
    run("", command=(sys.executable, "-W", "ignore", "-c", QUEUE), **options)
    with Program("", command=command, **options) as program:
        wait_until(lambda: len(list((tmp_path / "done").iterdir())) == 30, "all tasks are done")
        program.process.send_signal(signal.SIGTERM)
        code, _, err = program.end()
    assert code == 0, err
    assert arrived(url, "tasks") == once(*range(30))
    assert set(arrived(url, "parents").values()) == {1}
    assert len(arrived(url, "parents")) == 2  # that queued, and of the worker
