"""The key of programs in all kinds of trouble, searched for in all that they print, write and hand on."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from interrupted_programs import Program, posix
from scripted_servers import Peer, Server
from trackers import DRIVERS

pytestmark = pytest.mark.thorough

KEY = "Qv7xT2mK-canary-of-the-key"
"""Its beginning is as secret as the whole."""

MARKS = {
    "itself": KEY,
    "its beginning": KEY[:8],
    "its hex": KEY[:8].encode().hex(),
    **{
        # From each of the three places where it may begin, without what depends on its neighbours.
        f"its base64, {shift} bytes in": base64.b64encode(b"\0" * shift + KEY[:12].encode()).decode()[4:-4]
        for shift in range(3)
    },
}

PRELUDE = """
import asyncio, copy, dataclasses, faulthandler, gc, io, json, logging, math, os, pickle, pprint, subprocess, sys
import threading, traceback
import anyio, rich.console, rich.pretty, rich.traceback
import atom_anyio, atom_sync
import atom_sansio

driver, url, *urls = sys.argv[1:]

class Secret:
    "What the program itself takes care of: none of its frames and objects shows it."
    __slots__ = ("key",)
secret = Secret()
secret.key = sys.stdin.readline().strip()

logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
logging.getLogger("asyncio").setLevel(logging.DEBUG)
faulthandler.enable()
console = rich.console.Console(width=5000, file=sys.stdout)

shown_richly = set()

def show(error, richly=True):
    "As much as tools that report errors can."
    try:
        sys.stdout.writelines(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    except AttributeError as broken:  # of a dataclass that is half copied, before 3.13
        assert not richly, repr(broken)
    place = traceback.extract_tb(error.__traceback__)[-1]
    if richly and (place.filename, place.lineno) not in shown_richly:  # it takes its time
        shown_richly.add((place.filename, place.lineno))
        console.print(
            rich.traceback.Traceback.from_exception(
                type(error), error, error.__traceback__, show_locals=True, locals_max_length=100,
                locals_max_string=100_000, extra_lines=0,
            )
        )
    while error is not None:
        print(repr(error), error.args, vars(error) if hasattr(error, "__dict__") else "")
        where = error.__traceback__
        while where is not None:  # with what is in the objects there
            for name, value in where.tb_frame.f_locals.items():
                if where.tb_frame.f_code.co_filename != "<string>" and hasattr(value, "__dict__"):
                    print(name, safe(vars(value)))
            where = where.tb_next
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

def safe(value):
    try:
        return pprint.pformat(value)
    except Exception as error:
        return repr(error)

tried = failed = 0

def attempt(action, *arguments, **options):
    "It fails, or it is none."
    global tried, failed
    tried += 1
    try:
        action()
    except BaseException as error:
        failed += 1
        show(error)
    else:
        print("nothing happened", file=sys.stderr)

def passes(action):
    try:
        print(action())
    except Exception as error:
        show(error, richly=False)

def show_object(value):
    for how in (
        repr, str, ascii, "{}".format, pprint.pformat, rich.pretty.pretty_repr, vars, dir, dataclasses.asdict,
        dataclasses.astuple, copy.copy, copy.deepcopy, *(lambda v, n=n: pickle.dumps(v, n) for n in range(6)),
        lambda v: v.__reduce__(), lambda v: v.__reduce_ex__(4), lambda v: v.__getstate__(),
        lambda v: json.dumps(v, default=vars), lambda v: safe(vars(v)),
        lambda v: [safe(each) for each in vars(v).values()],
    ):
        passes(lambda: how(value))

def show_process():
    own = [open(f"/proc/self/{name}").read() for name in ("cmdline", "environ")]
    print(own, subprocess.run(["cat", "/proc/self/cmdline", "/proc/self/environ"], capture_output=True).stdout)
"""


class Run:
    """A program that is given the key on its standard input, and all that it left behind."""

    def __init__(self, script: str, folder: Path, *urls: str, driver: str = "threads") -> None:
        prelude = PRELUDE + "show_process()\n"
        with Program(
            "",
            command=(sys.executable, "-W", "ignore", "-c", prelude + script, driver, *urls),
            stdin=subprocess.PIPE,
            cwd=folder,
            environment={"HOME": str(folder), "TMPDIR": str(folder), "PYTHONASYNCIODEBUG": "1"},
        ) as program:
            assert program.process.stdin is not None
            program.process.stdin.write(KEY + "\n")
            program.process.stdin.flush()
            self.code, self.out, self.err = program.end()
        files = {path.name: path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()}
        self.texts = {"stdout": self.out, "stderr": self.err, **files}
        self.leaks = [
            f"{what} in {name}: ...{text[max(0, place - 200) : place + 60]}..."
            for name, text in self.texts.items()
            for what, mark in MARKS.items()
            for place in [text.lower().find(mark.lower())]
            if place >= 0
        ]


def test_the_search_finds() -> None:
    """The marks are found in what they are looked for in."""
    for text in (
        KEY,
        KEY.encode().hex(),
        KEY.encode().hex().upper(),
        *(base64.b64encode(before + KEY.encode()).decode() for before in (b"", b"x", b"xy", b"xyz")),
    ):
        assert any(mark.lower() in text.lower() for mark in MARKS.values()), text


WRONG_CALLS = {
    "options": """
for module in (atom_sync, atom_anyio):
    for make in (module.Tracker, module.Client):
        attempt(lambda: make(url, auth_key=secret.key, request_timeout=-1))
        attempt(lambda: make(url, auth_keys={"s": secret.key}, request_timeout=-1))
        attempt(lambda: make(url, auth_key=secret.key, no_such_option=1))
        attempt(lambda: make("ftp://host/", auth_key=secret.key))
        attempt(lambda: make(auth_key=secret.key))
        attempt(lambda: make(url, auth_key=secret.key, transport=object))
        attempt(lambda: make(url, auth_key=[secret.key]))
        attempt(lambda: make(url, auth_key={"s": secret.key}))
        attempt(lambda: make(url, auth_key=secret.key + chr(0xd800)))
        attempt(lambda: make(url, auth_keys=secret.key))
        attempt(lambda: make(url, auth_keys={"s": [secret.key]}))
        attempt(lambda: make(url, auth_keys={"s": secret.key, "": "x"}))
        attempt(lambda: make(url, auth_keys={"s": secret.key, "t": 7}))
        attempt(lambda: make(url, auth_keys={"s": secret.key + chr(0xd800)}))
attempt(lambda: atom_sansio.AuthKey([secret.key]))
attempt(lambda: atom_sansio.AuthKey(secret.key + chr(0xd800)))
attempt(lambda: atom_sansio.AuthKey.of(secret.key + chr(0xd800)))
""",
    "environment": """
os.environ["ATOM_AUTH_KEY"] = secret.key
for module in (atom_sync, atom_anyio):
    for make in (module.Tracker, module.Client):
        attempt(lambda: make(url, request_timeout=-1))
        attempt(lambda: make("ftp://host/"))
        for wrong in ('{"s": "%s"', '"%s"', '{"s": ["%s"]}', '{"s": "%s", "": "x"}', '{"s": "%s", "t": 7}'):
            os.environ["ATOM_AUTH_KEYS"] = wrong % secret.key
            attempt(lambda: make(url))
        del os.environ["ATOM_AUTH_KEYS"]
del os.environ["ATOM_AUTH_KEY"]
""",
    "calls": """
tracker = atom_sync.Tracker(
    url, auth_keys={"own": secret.key}, max_pending_events=1, on_full="raise", flush_interval=99
)
attempt(lambda: tracker.track("s", math.nan, auth_key=secret.key))
attempt(lambda: tracker.track("s", {"a": object()}, auth_key=secret.key))
attempt(lambda: tracker.track("", 1, auth_key=secret.key))
attempt(lambda: tracker.track("s", "x" * 600_000, auth_key=secret.key))
attempt(lambda: tracker.set_auth_key("", secret.key))
tracker.set_auth_key("s", secret.key)
tracker.track("s", 1, auth_key=secret.key)
attempt(lambda: tracker.track("s", 1, auth_key=secret.key))
attempt(lambda: tracker.flush(-1))
show_object(tracker)
tracker.stop(0)
attempt(lambda: tracker.track("s", 1, auth_key=secret.key))
attempt(lambda: tracker.track("own", 1))
with atom_sync.Client(url, auth_key=secret.key) as client:
    for key in (None, secret):
        own = lambda: {} if key is None else {"auth_key": secret.key}
        attempt(lambda: client.put_event("s", math.nan, **own()))
        attempt(lambda: client.put_event("", 1, **own()))
        attempt(lambda: client.put_event("s", "x" * 10_000, method="GET", **own()))
        attempt(lambda: client.put_event("s", 1, method="PUT", **own()))
        attempt(lambda: client.put_events("s", [1, math.nan], **own()))
        attempt(lambda: client.put_events("s", [], **own()))
    print(client.put_event("s", 1), client.put_event("s", 1, method="GET"), client.put_events("s", [1]))
    show_object(client)

async def main():
    async with atom_anyio.Tracker(
        url, auth_keys={"own": secret.key}, max_pending_events=1, flush_interval=99, block_timeout=0.01
    ) as tracker:
        async def attempt_soon(action):
            global tried, failed
            tried += 1
            try:
                await action()
            except BaseException as error:
                failed += 1
                show(error)
            else:
                print("nothing happened", file=sys.stderr)

        attempt(lambda: tracker.track_nowait("s", math.nan, auth_key=secret.key))
        await attempt_soon(lambda: tracker.track("s", math.nan, auth_key=secret.key))
        await attempt_soon(lambda: tracker.track("", 1, auth_key=secret.key))
        attempt(lambda: tracker.set_auth_key("", secret.key))
        tracker.set_auth_key("s", secret.key)
        await tracker.track("s", 1, auth_key=secret.key)
        await attempt_soon(lambda: tracker.track("s", 1, auth_key=secret.key))
        attempt(lambda: tracker.track_nowait("s", 1, auth_key=secret.key))

        async def cancelled():
            with anyio.fail_after(0.001):
                await tracker.track("s", 1, auth_key=secret.key)
        await attempt_soon(cancelled)
        show_object(tracker)
        await tracker.stop(0)
        await attempt_soon(lambda: tracker.track("s", 1, auth_key=secret.key))
    async with atom_anyio.Client(url, auth_key=secret.key) as client:
        for key in (None, secret):
            own = lambda: {} if key is None else {"auth_key": secret.key}
            await attempt_soon(lambda: client.put_event("s", math.nan, **own()))
            await attempt_soon(lambda: client.put_event("", 1, **own()))
            await attempt_soon(lambda: client.put_events("s", [1, math.nan], **own()))
        print(await client.put_event("s", 1), await client.put_event("s", 1, method="GET"))
        show_object(client)

for backend in ("asyncio", "trio"):
    anyio.run(main, backend=backend)
""",
    "objects": """
key = atom_sansio.AuthKey(secret.key)
options = atom_sansio.Options.read({"endpoint": url, "auth_key": key, "auth_keys": {"s": key}}, {}, str)
keyring = atom_sansio.Keyring({"s": [key, secret.key]}, default=secret.key)
core = atom_sansio.TrackerCore(options, source="x")
core.track("s", {"a": 1}, now=0.0)
core.track("t", {"a": 1}, key, now=0.0)
core.flush(now=0.0)
command = core.next_command(now=0.0)
from atom_anyio.collector import Collector, _keys
live = _keys.LiveKeyring(
    [f"s={secret.key}"], default_key=secret.key, environment={"ATOM_COLLECTOR_KEYS": "t=" + secret.key}
)
collector = Collector(keys={"s": secret.key}, default_key=secret.key)
for value in (key, options, keyring, core, command, live, collector, *core.lanes.values(), *core._schedule,
              *core._delivery._in_flight.values(), dataclasses.replace(options)):
    show_object(value)
""",
    "collector": """
from atom_anyio.collector import _keys
from atom_anyio.collector import Collector
attempt(lambda: atom_sansio.Keyring({"": secret.key}))
attempt(lambda: atom_sansio.Keyring({"s": [secret.key, 5]}))
attempt(lambda: atom_sansio.Keyring({"s": {"t": secret.key}}))
attempt(lambda: atom_sansio.Keyring(secret.key))
attempt(lambda: atom_sansio.Keyring({"s": secret.key}, default=5))
attempt(lambda: atom_sansio.Keyring({"s": 5}, default=secret.key))
attempt(lambda: Collector(keys={"s": secret.key}, port=-1))
attempt(lambda: Collector(keys={"": secret.key}))
attempt(lambda: Collector(keys={"s": 5}, default_key=secret.key))
attempt(lambda: Collector(keys={"s": secret.key}, store="no/such/folder/x").__enter__())
attempt(lambda: Collector(keys={"s": secret.key}, host="no.such.host.invalid").__enter__())
attempt(lambda: _keys.read_keyring([secret.key]))
attempt(lambda: _keys.read_keyring(["s=" + secret.key, "x"]))
attempt(lambda: _keys.read_keyring(["="], default_key=secret.key))
attempt(lambda: _keys.read_keyring(environment={"ATOM_COLLECTOR_KEYS": "s=%s\\nx" % secret.key}))
attempt(lambda: _keys.LiveKeyring([secret.key]))
with Collector(keys={"s": secret.key}, store="store.db") as own:
    with atom_sync.Tracker(own, auth_key=secret.key) as tracker:
        tracker.track("s", 1)
        print(tracker.flush())
        tracker.track("s", 2, auth_key="wrong")
        print(tracker.flush(1), tracker.stop(0.1))
    with atom_sync.Client(own, auth_key=secret.key, transport=atom_sync.HttpxTransport(trust_env=False)) as client:
        print(client.put_event("s", 3), client.put_event("s", 3, method="GET"), client.put_events("t", [3]))
""",
    "old API": """
from ironsource.atom.ironsource_atom import IronSourceAtom
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker
attempt(lambda: IronSourceAtom(endpoint="ftp://host/", auth_key=secret.key))
attempt(lambda: IronSourceAtom(endpoint=url, auth_key=[secret.key]))
attempt(lambda: IronSourceAtomTracker(endpoint="ftp://host/", auth_key=secret.key))
attempt(lambda: IronSourceAtomTracker(endpoint=url, auth_key=[secret.key]))
attempt(lambda: IronSourceAtomTracker(endpoint=url, auth_key=secret.key, event_backlog=object()))
client = IronSourceAtom(True, url, secret.key, debug_to_file=True, debug_file_path=".")
for key in (None, secret):
    own = lambda: {} if key is None else {"auth_key": secret.key}
    attempt(lambda: client.put_event("s", math.nan, **own()))
    attempt(lambda: client.put_event("", 1, **own()))
    attempt(lambda: client.put_event("s", 1, 5, **own()))
    attempt(lambda: client.put_events("s", [object()], **own()))
    attempt(lambda: client.put_events("", [1], **own()))
    print(client.put_event("s", 1, "GET", **own()), client.put_events("s", [1], **own()))
attempt(lambda: IronSourceAtom.create_request_data("s", secret.key, math.nan))
attempt(lambda: IronSourceAtom.create_request_data("", secret.key, 1))
assert client.get_auth() == secret.key
show_object(client)
def callback(*arguments):
    print(arguments)
    1 / 0
tracker = IronSourceAtomTracker(
    endpoint=url, auth_key=secret.key, is_debug=True, debug_to_file=True, debug_file_path=".", callback=callback
)
for data in (1, math.nan, object()):
    tracker.track("s", data)
    tracker.track("s", data, secret.key)
show_object(tracker)
tracker.flush()
tracker.stop()
""",
}


@posix
@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_calls(name: str, tmp_path: Path) -> None:
    """No exception of ours, with the locals of all its frames, and no object shows a key, printed in any way."""
    ran = Run(WRONG_CALLS[name] + "\nprint('attempts', tried, failed)\n", tmp_path, "http://127.0.0.1:9/")
    print(ran.out.splitlines()[-1:], ran.err[-2000:], {name: len(text) for name, text in ran.texts.items()})
    assert ran.leaks == []
    assert ran.code == 0, ran.err
    assert "nothing happened" not in ran.err
    if "attempt(" in WRONG_CALLS[name]:
        tried, failed = ran.out.splitlines()[-1].split()[1:]
        assert int(failed) == int(tried) > 5


ANSWERS: dict[str, Callable[[Peer], object]] = {
    "refused": lambda peer: peer.write(b"HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\nkey?"),
    "rejected": lambda peer: peer.write(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n"),
    "redirected": lambda peer: peer.write(b"HTTP/1.1 302 No\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
    "down": lambda peer: peer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
    "garbage": lambda peer: (peer.write(b"\0garbage\r\n\r\n"), peer.close()),
    "reset": lambda peer: peer.reset(),
    "silent": lambda peer: peer.left(),
}

PROGRAM = """
import signal
def on_loss(loss):
    print(loss, loss.message)
    raise RuntimeError("of the callback")

class Interrupted(Exception): ...
def interrupt(*_):
    raise Interrupted
signal.signal(signal.SIGALRM, interrupt)

def options(httpx):
    module = atom_sync if driver == "threads" else atom_anyio
    transport = {"transport": module.HttpxTransport(trust_env=False)} if httpx else {}
    return {"auth_key": secret.key, "auth_keys": {"t": secret.key}, "request_timeout": 0.1, "on_loss": on_loss,
            "retry": atom_sansio.RetryPolicy(base=0.01, cap=0.05, max_attempts=3), **transport}

def of_threads(url, httpx):
    tracker = atom_sync.Tracker(url, **options(httpx))
    try:
        for n in range(3):
            tracker.track("s", n)
            tracker.track("t", n)
            tracker.track("u", n, auth_key=secret.key)
        print(tracker.flush(0.2), tracker.statistics())
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        tracker.track("s", 4)
        tracker.flush(5)
        threading.Event().wait(5)
    except Interrupted as error:
        show(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        show_object(tracker)
        faulthandler.dump_traceback()
        tracker.stop(0.2)
    1 / 0

async def of_tasks(url, httpx):
    async with atom_anyio.Tracker(url, **options(httpx)) as tracker:
        for n in range(3):
            await tracker.track("s", n)
            await tracker.track("t", n)
            await tracker.track("u", n, auth_key=secret.key)
        print(await tracker.flush(0.2), tracker.statistics())
        show_object(tracker)
        if driver == "asyncio":
            for task in asyncio.all_tasks():
                print(repr(task))
                task.print_stack(file=sys.stdout)
                for frame in task.get_stack():
                    print(frame.f_locals)
        try:
            with anyio.fail_after(0.02):
                await tracker.track("s", 4)
                await tracker.flush(5)
                await anyio.sleep(5)
        except TimeoutError as error:
            show(error)
        await tracker.stop(0.2)
        1 / 0

for url in (url, *urls):
    for httpx in (False, True):
        try:
            if driver == "threads":
                of_threads(url, httpx)
            else:
                anyio.run(of_tasks, url, httpx, backend=driver)
        except BaseException as error:
            show(error)
show_process()
rich.traceback.install(show_locals=True, width=5000)
raise SystemError("the end")
"""


@contextmanager
def answering(act: Callable[[Peer], object]) -> Iterator[str]:
    def script(peer: Peer, number: int) -> None:
        while request := peer.read_request():
            seen.append(request)
            act(peer)

    seen: list[bytes] = []
    with Server(script) as server:
        yield f"http://{server.origin().authority}/"
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in seen]
    assert bodies
    assert all(len(body["auth"]) == 64 for body in bodies)
    assert not any(mark.encode().lower() in request.lower() for request in seen for mark in MARKS.values())


@posix
@pytest.mark.parametrize("driver", DRIVERS)
def test_faulty_programs(driver: str, tmp_path: Path) -> None:
    """Whatever the server does, a program whose callback raises, interrupted and ended by a traceback, shows no key."""
    with ExitStack() as stack:
        urls = [stack.enter_context(answering(act)) for act in ANSWERS.values()]
        ran = Run(PROGRAM, tmp_path, *urls, driver=driver)
    print({name: len(text) for name, text in ran.texts.items()})
    assert ran.leaks == []
    assert ran.code == 1
    assert "SystemError" in ran.err
    assert ran.out.count("ZeroDivisionError('division by zero')") >= 2 * len(ANSWERS)
    assert "of the callback" in ran.out
    assert "refuses the key" in ran.out
    assert "httpcore" in ran.out
