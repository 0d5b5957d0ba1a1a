"""The server's half: reading, verifying, answering."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from traceback import TracebackException
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import _elements
from atom_sansio._elements import element_texts
from atom_sansio._receive import Refused, Submission, answer, read_submission
from atom_sansio._sign import AuthKey
from atom_sansio._verify import Keyring

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "old_sdks.json").read_text("utf-8"))
CANARY = "canary-5ecret"


def post(data: object, *, target: str = "/bulk", headers: Any = (), **more: object) -> Submission:
    """Read an envelope of stream ``s``."""
    return read_submission("POST", target, headers, orjson.dumps({"table": "s", "data": data, **more}))


def get(value: str | bytes) -> Submission:
    """Read a GET with *value* as it stands in the query."""
    return read_submission("GET", f"/?data={value if isinstance(value, str) else value.decode()}", ())


def refusal(method: str, target: str, body: bytes = b"", headers: Any = ()) -> Refused:
    """How a request is refused."""
    with pytest.raises(Refused) as info:
        read_submission(method, target, headers, body)
    return info.value


# What old SDKs sent


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v["name"] != "py2.tracker.redirect_target"], ids=lambda vector: vector["name"]
)
def test_recorded_requests(vector: dict[str, Any]) -> None:
    """Every request recorded from an old SDK is read and verifies; its events are those that the caller passed."""
    target = vector["path"] + ("?" + vector["query"] if vector["query"] else "")
    submission = read_submission(
        vector["method"], target, vector["headers_of_interest"].items(), vector["body_raw"].encode()
    )
    assert submission.stream == vector["stream"]
    assert submission.data == vector["data_field"]
    assert submission.auth == (vector["signature"] or "")
    assert submission.bulk == (vector["path"] == "/bulk")
    keyed = bool(vector["auth_key"]) and bool(vector["signature"])
    Keyring(default=vector["auth_key"] if keyed else None).verify(submission)
    if keyed:
        with pytest.raises(Refused, match="wrong"):
            Keyring(default="another").verify(submission)
    if not submission.bulk:
        assert submission.elements == (vector["data_field"],)
    else:
        # Strings are their own text; any other element means what was passed.
        elements = json.loads(vector["data_field"])
        assert len(submission.elements) == len(elements)
        for text, element in zip(submission.elements, elements, strict=True):
            assert text == element if isinstance(element, str) else json.loads(text) == element


def test_recorded_defects() -> None:
    """What came out wrong on the client's side is read for what it is."""
    by_name = {vector["name"]: vector for vector in VECTORS}

    def read(name: str) -> Submission:
        vector = by_name[name]
        return read_submission(vector["method"], vector["path"], (), vector["body_raw"].encode())

    # Encoded twice: the event is a JSON string that holds JSON.  It is stored; only its owner knows better.
    assert read("py2.low.post_unicode_str").elements == ('"{\\"id\\": 1}"',)
    assert read("py2.tracker.noauth_dict_and_unicode").elements == ('{"id": 5}', '"{\\"id\\": 6}"')
    # NaN within the text of a single event, which may be any text.
    assert read("py2.low.post_nan").elements == ('{"v": NaN}',)
    # Signed with the first of two keys: right for the one, wrong for the other.
    first = read("py2.tracker.first_key_wins")
    Keyring(default="key1").verify(first)
    with pytest.raises(Refused, match="wrong"):
        Keyring(default="key2-second").verify(first)
    # Unsigned although there was a key: refused where a key is asked for.
    with pytest.raises(Refused, match="missing"):
        Keyring(default="the-key").verify(read("py2.tracker.first_call_without_key_pins_unsigned"))
    # Signed with the empty key, for want of a key: fine where none is asked for, wrong elsewhere.
    Keyring().verify(read("php.low.post_noauth"))
    with pytest.raises(Refused, match="wrong"):
        Keyring(default="k3y-Secret").verify(read("php.low.post_noauth"))
    # The empty GET that a redirected batch became.
    assert refusal("GET", "/moved").reason == "data is missing or empty"


@pytest.mark.parametrize(
    ("data", "elements"),
    [
        ('[{"id": 1}, {"id": 2}]', ('{"id":1}', '{"id":2}')),
        ('["{\\"id\\": 1}", "{\\"id\\": 2}"]', ('{"id": 1}', '{"id": 2}')),
        ('["{\\"id\\": 1}","{\\"id\\": 2}"]', ('{"id": 1}', '{"id": 2}')),
        ('[{"id": 1},{"id": 2}]', ('{"id":1}', '{"id":2}')),
        ('[{"id":1},{"id":2}]', ('{"id":1}', '{"id":2}')),
        ('[{"id": 1}, "{\\"id\\": 2}"]', ('{"id":1}', '{"id": 2}')),
        ('[{"id":1},"{\\"id\\": 2}"]', ('{"id":1}', '{"id": 2}')),
        ('["hello world"]', ("hello world",)),
        ('[1,null,true,[],""]', ("1", "null", "true", "[]", "")),
        ("[{}]", ("{}",)),
        ('[{},{"a":{}},{}]', ("{}", '{"a":{}}', "{}")),
        # What is between two objects of an array, within one of them.
        ('[{"a":"},{"},{"b":1}]', ('{"a":"},{"}', '{"b":1}')),
        ('[{"a":[{},{"b":[{},{}]}]},{}]', ('{"a":[{},{"b":[{},{}]}]}', "{}")),
        ('[{"a":"},{"} ,{"b":1}]', ('{"a":"},{"}', '{"b":1}')),
        ('[{"a":"},{"},1]', ('{"a":"},{"}', "1")),
    ],
)
def test_forms_of_a_batch(data: str, elements: tuple[str, ...]) -> None:
    """Strings, values and both are taken, with and without spaces."""
    assert post(data).elements == elements


# Exactness


@pytest.mark.parametrize(
    "element",
    [
        "123456789012345678901234567890",
        "1" * 5000,
        "1.10",
        "1e5",
        "1E+400",
        "-0",
        "-0.0",
        '{"a":1,"a":2}',
        '{"a":123456789012345678901234567890,"b":1.10}',
        '{"text":"\\u00e7\\/\\ud83d\\ude00 two  spaces"}',
        '{"q":"\\" , : [ \\\\"}',
        "[" * 300 + "]" * 300,
        '{"a":' * 300 + "{}" + "}" * 300,
    ],
    ids=lambda element: element[:24],
)
@pytest.mark.parametrize("space", ["", " ", "\r\n\t "])
def test_exact_texts(element: str, space: str) -> None:
    """An element that is no string keeps its text, whatever surrounds it."""
    data = f'{space}[{space}"{{ }}"{space},{space}{element}{space},{space}{{{space}}}{space}]{space}'
    assert element_texts(data) == ["{ }", element, "{}"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(values, min_size=1, max_size=6), st.booleans(), st.sampled_from([None, 1]))
def test_any_array(elements: list[Any], escaped: bool, indent: int | None) -> None:
    """However an array is written, its elements' texts are those of the elements written by themselves, compact."""
    data = json.dumps(elements, ensure_ascii=escaped, indent=indent)
    expected = [
        element if isinstance(element, str) else json.dumps(element, ensure_ascii=escaped, separators=(",", ":"))
        for element in elements
    ]
    assert element_texts(data) == expected


@given(st.lists(values, min_size=1, max_size=6))
def test_any_array_as_this_client_writes_it(elements: list[Any]) -> None:
    """The quick way, on what orjson has written, gives what the exact way gives."""
    try:
        data = orjson.dumps(elements).decode()
    except TypeError:  # integers beyond 64 bits
        return
    texts = element_texts(data)
    assert texts == element_texts(data + " ")
    joined = ",".join(
        t if type(e) is not str else orjson.dumps(t).decode() for t, e in zip(texts, elements, strict=True)
    )
    assert f"[{joined}]" == data


def test_quick_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """What clients usually send, texts or compact objects, is written back no more than once and never cut by hand."""
    written: list[object] = []
    monkeypatch.setattr(_elements, "_dumps", lambda value: written.append(value) or orjson.dumps(value))
    monkeypatch.setattr(_elements, "_cut", None)
    assert element_texts('["a", "b"]') == ["a", "b"]
    assert written == []
    objects = [{"id": 1, "name": "x"}, {}, {"deep": [{"a": []}]}]
    assert element_texts(orjson.dumps(objects).decode()) == [orjson.dumps(it).decode() for it in objects]
    assert written == [objects]


@pytest.mark.parametrize("text", ["hello world", "7", '{"v": NaN}', "[1,2", "\x00", '{"a": 1.10}', " ", '[{"id":1}]'])
def test_a_single_event_is_its_text(text: str) -> None:
    """The data of a single event is not looked into."""
    assert post(text, target="/").elements == (text,)


# What is tolerated


@pytest.mark.parametrize("name", ["table", "stream"])
def test_names_of_the_stream(name: str) -> None:
    """The stream's name is in ``table``, or in ``stream`` as the Node SDK has it."""
    assert read_submission("POST", "/", (), orjson.dumps({name: "поток", "data": "x"})).stream == "поток"


def test_both_names_of_the_stream() -> None:
    """Both at once are fine if they agree."""
    assert post("x", target="/", stream="s").stream == "s"
    refused = refusal("POST", "/", b'{"table":"a","stream":"b","data":"x"}')
    assert (refused.status, refused.reason) == (400, "table and stream differ")


@pytest.mark.parametrize(
    ("target", "more", "bulk"),
    [
        ("/", {}, False),
        ("/", {"bulk": False}, False),
        ("/", {"bulk": "false"}, False),
        ("/", {"bulk": True}, True),  # the Ruby SDK
        ("/", {"bulk": "true"}, True),  # logstash and beats
        ("/bulk", {}, True),
        ("/bulk", {"bulk": False}, True),
        ("/bulk?x=1", {}, True),
        ("/behind/a/proxy/bulk", {}, True),
        ("/?/bulk", {}, False),
    ],
)
def test_what_is_a_batch(target: str, more: dict[str, object], bulk: bool) -> None:
    """A batch is told by the path's end or by the flag."""
    submission = post("[1]", target=target, **more)
    assert submission.bulk is bulk
    assert submission.elements == (("1",) if bulk else ("[1]",))


@pytest.mark.parametrize("more", [{}, {"auth": ""}, {"auth": None}])
def test_no_signature(more: dict[str, object]) -> None:
    """A signature may be absent or empty."""
    assert post("[1]", **more).auth == ""


def test_unknown_fields() -> None:
    """Fields that only some SDK knows are skipped."""
    assert post("[1]", apiVersion="V1", x={"deep": [1, 2]}).elements == ("1",)


ENVELOPE = json.dumps({"table": "s", "data": '{"t": "ção ✓>>>???"}', "auth": "ff"}, ensure_ascii=False).encode()
STANDARD = base64.b64encode(ENVELOPE)


@pytest.mark.parametrize(
    "value",
    [
        quote(STANDARD, safe=""),
        STANDARD,  # raw +, / and =
        base64.urlsafe_b64encode(ENVELOPE),
        STANDARD.rstrip(b"="),
        STANDARD.replace(b"+", b" "),
        STANDARD.replace(b"+", b"%20"),
        quote(base64.encodebytes(ENVELOPE)),
        quote(base64.encodebytes(ENVELOPE).replace(b"\n", b"\r\n")),
        quote(ENVELOPE),
        quote(b"\n " + ENVELOPE),
    ],
    ids=["quoted", "raw", "urlsafe", "unpadded", "space", "quoted-space", "wrapped", "crlf", "json", "spaced-json"],
)
def test_forms_of_get(value: str | bytes) -> None:
    """A GET's envelope is read in every form that an SDK gives it."""
    assert b"+" in STANDARD or b"/" in STANDARD
    submission = get(value)
    assert (submission.stream, submission.auth, submission.bulk) == ("s", "ff", False)
    assert submission.elements == ('{"t": "ção ✓>>>???"}',)


def test_get_of_a_batch() -> None:
    """A GET can carry a batch, if it says so."""
    assert get(base64.urlsafe_b64encode(b'{"table":"s","data":"[1,2]","bulk":true}')).elements == ("1", "2")


def test_get_among_other_parameters() -> None:
    """Other parameters of the query are skipped."""
    assert read_submission("GET", f"/?a=b&data={quote(ENVELOPE)}&_=1", ()).stream == "s"


def test_batch_id() -> None:
    """The batch id is the ``Idempotency-Key``, its name in any case, and may be absent."""
    assert post("[1]", headers=[("Content-Type", "x"), ("Idempotency-Key", "b-1")]).batch_id == "b-1"
    assert post("[1]", headers=[("idempotency-key", "b-1"), ("IDEMPOTENCY-KEY", "b-1")]).batch_id == "b-1"
    assert post("[1]", headers=[("idempotency-key", "")]).batch_id is None
    assert post("[1]").batch_id is None


def test_a_submission_is_a_value() -> None:
    """A submission is equal to another of the same request, cannot be changed, and takes no more than its fields."""
    submission = post("[1]")
    assert submission == post("[1]")
    with pytest.raises(AttributeError):
        submission.stream = "other"  # type: ignore[misc]
    assert not hasattr(submission, "__dict__")
    with pytest.raises(TypeError, match="positional"):
        Submission("s", "[1]", "", True, None, ("1",))  # type: ignore[call-arg]


# What is refused


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the envelope is not JSON"),
        (b"hello", "the envelope is not JSON"),
        (b'{"table":"s","data":"\xff"}', "the envelope is not JSON"),
        (b'{"table":"s","data":"\\ud800"}', "the envelope is not JSON"),
        (b'{"table":"s","data":"x","v":NaN}', "the envelope is not JSON"),
        (b'\xef\xbb\xbf{"table":"s","data":"x"}', "the envelope is not JSON"),
        ('{"table":"s","data":"x"}'.encode("utf-16"), "the envelope is not JSON"),
        (b'[{"table":"s","data":"x"}]', "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b'{"table":"s","data":"x","data":"y"}', "repeats a name"),
        (b'{"table":"s","table":"s","data":"x"}', "repeats a name"),
        (b'{"table":"s","data":"x","x":' + b"[" * 1000 + b"]" * 1000 + b"}", "nested too deeply"),
        (b'{"data":"x"}', "table is missing"),
        (b'{"table":"","data":"x"}', "stream must have 1 to"),
        (b'{"table":"%s","data":"x"}' % (b"s" * 600), "stream must have 1 to"),
        (b'{"table":null,"data":"x"}', "stream must be a str"),
        (b'{"table":7,"data":"x"}', "stream must be a str"),
        (b'{"table":"s"}', "data is missing or empty"),
        (b'{"table":"s","data":""}', "data is missing or empty"),
        (b'{"table":"s","data":null}', "data is missing or empty"),
        (b'{"table":"s","data":[1]}', "data must be a string, not a JSON array"),
        (b'{"table":"s","data":{"id":1}}', "data must be a string, not a JSON object"),
        (b'{"table":"s","data":7}', "data must be a string, not a JSON number"),
        (b'{"table":"s","data":1.5}', "data must be a string, not a JSON number"),
        (b'{"table":"s","data":"x","auth":true}', "auth must be a string, not a JSON boolean"),
        (b'{"table":"s","data":"x","bulk":1}', "bulk must be true or false"),
        (b'{"table":"s","data":"x","bulk":null}', "bulk must be true or false"),
        (b'{"table":"s","data":"x","bulk":[]}', "bulk must be true or false"),
    ],
)
def test_wrong_envelopes(body: bytes, reason: str) -> None:
    """An envelope that is not strictly right is refused with 400 and the reason."""
    refused = refusal("POST", "/", body)
    assert refused.status == 400
    assert reason in refused.reason
    assert str(refused) == f"400: {refused.reason}"
    assert refused.events == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("hello", "data is not JSON"),
        ('{"id":1}', "not a JSON array"),
        ('"[]"', "not a JSON array"),
        ('{"n":1e400}', "not a JSON array"),
        ("1e400", "not a JSON array"),
        ("[]", "without events"),
        ("[1,]", "data is not JSON"),
        ("[1 2]", "data is not JSON"),
        ("[1][2]", "data is not JSON"),
        ("[1,2", "data is not JSON"),
        ("[01]", "data is not JSON"),
        ("['a']", "data is not JSON"),
        ('["a\nb"]', "data is not JSON"),
        ("[NaN]", "NaN is not in JSON"),
        ('[{"a":[Infinity]}]', "Infinity is not in JSON"),
        ("[1,-Infinity]", "-Infinity is not in JSON"),
        ('["\\ud800"]', "lone surrogate"),
        ('[{"a":"\\udc00","a":1}]', "lone surrogate"),
        ('[{"\\uDFFF":1}]', "lone surrogate"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
    ids=lambda value: value[:20],
)
def test_wrong_batches(data: str, reason: str) -> None:
    """A batch whose data is no strict JSON array is refused with 400, the reason and its stream."""
    refused = refusal("POST", "/bulk", json.dumps({"table": "s", "data": data}).encode())
    assert (refused.status, refused.stream) == (400, "s")
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/", "data is missing or empty"),
        ("/?", "data is missing or empty"),
        ("/?data=", "one data parameter"),
        ("/?data=e30&data=e30", "one data parameter"),
        ("/?data=%21%21", "not base64"),
        ("/?data=abcde", "not base64"),
        ("/?data=%ff", "not base64"),
        ("/?data=aGVsbG8", "the envelope is not JSON"),
        ("/?data=e30", "table is missing"),
    ],
)
def test_wrong_gets(target: str, reason: str) -> None:
    """A GET without a readable envelope is refused with 400."""
    refused = refusal("GET", target)
    assert refused.status == 400
    assert reason in refused.reason


def test_wrong_batch_ids() -> None:
    """A batch id that is too long, or two of them, are refused."""
    body = b'{"table":"s","data":"x"}'
    at_most = "x" * 512
    assert read_submission("POST", "/", [("Idempotency-Key", at_most)], body).batch_id == at_most
    assert "longer" in refusal("POST", "/", body, [("Idempotency-Key", at_most + "x")]).reason
    two = [("Idempotency-Key", "a"), ("idempotency-key", "b")]
    assert "two values" in refusal("POST", "/", body, two).reason


def test_too_large() -> None:
    """A body over the limit is refused with 413 before it is read, one at the limit is read."""
    body = b'{"table":"s","data":"x"}'
    assert read_submission("POST", "/", (), body, max_body=len(body)).data == "x"
    with pytest.raises(Refused) as info:
        read_submission("POST", "/", (), body, max_body=len(body) - 1)
    assert (info.value.status, info.value.reason) == (413, f"the body is larger than {len(body) - 1} bytes")
    assert read_submission("GET", f"/?data={quote(ENVELOPE)}", (), max_body=0).stream == "s"
    body = body.ljust(10_485_760)
    assert read_submission("POST", "/", (), body).data == "x"
    assert refusal("POST", "/", body + b" ").status == 413


@given(st.binary(max_size=60), st.sampled_from(["/", "/bulk"]))
def test_any_bytes(body: bytes, target: str) -> None:
    """Whatever comes is read or refused."""
    for method, where in (("POST", target), ("GET", f"{target}?data={quote(body)}")):
        try:
            status = 200 if read_submission(method, where, (), body) else None
        except Refused as refused:
            status = refused.status
        assert status in (200, 400)


def test_refusals_quote_nothing() -> None:
    """No part of a refused request is in the refusal or in what led to it."""
    for body in (
        b'{"table":"s","data":"' + CANARY.encode(),
        orjson.dumps({"table": "s", "data": f'["{CANARY}'}),
        orjson.dumps({"table": "s", "data": "[1]", "bulk": CANARY}),
    ):
        refused = refusal("POST", "/bulk", body)
        assert CANARY[:4] not in f"{refused!r} {refused}"
    assert CANARY[:4] not in repr(post(f'["{CANARY}"]', auth=CANARY))


# Keys


def signed(key: str, stream: str = "s", data: str = '["ção"]') -> Submission:
    """A submission signed with *key*, by another implementation than the one under test."""
    auth = hmac.new(key.encode(), data.encode(), hashlib.sha256).hexdigest()
    return read_submission("POST", "/bulk", (), orjson.dumps({"table": stream, "data": data, "auth": auth}))


def test_keys_of_streams() -> None:
    """A stream's own key wins over the default; each other stream needs the default."""
    keyring = Keyring({"s": "own"}, default="default")
    keyring.verify(signed("own"))
    keyring.verify(signed("default", "other"))
    for wrong in (signed("default"), signed("own", "other"), signed("x"), signed("x", "other")):
        with pytest.raises(Refused, match="the signature is wrong") as info:
            keyring.verify(wrong)
        assert (info.value.status, info.value.stream, info.value.events) == (401, wrong.stream, 1)


def test_several_keys() -> None:
    """While keys are exchanged, the old and the new one are valid."""
    keyring = Keyring({"s": ["old", b"new", AuthKey("newest")]}, default=("a", "b"))
    for key in ("old", "new", "newest"):
        keyring.verify(signed(key))
    for key in ("a", "b"):
        keyring.verify(signed(key, "other"))
    with pytest.raises(Refused):
        keyring.verify(signed("a"))


def test_no_keys() -> None:
    """A stream for which there is neither a key nor a default takes anything."""
    for submission in (signed("x"), post("[1]"), post("[1]", auth="ключ")):
        Keyring().verify(submission)
    Keyring({"other": "k"}).verify(post("[1]"))


@pytest.mark.parametrize("auth", ["ключ", "\x00", "0" * 64, "0" * 63, "x" * 10_000, None])
def test_wrong_signatures(auth: str | None) -> None:
    """Whatever is in place of the signature is compared, and refused with 401."""
    with pytest.raises(Refused) as info:
        Keyring(default="k").verify(post("[1,2,3]", auth=auth))
    assert (info.value.status, info.value.events) == (401, 3)
    assert info.value.reason == f"the signature is {'missing' if auth is None else 'wrong'}"


def test_signatures_are_lower_case() -> None:
    """An upper-case signature is another text."""
    right = signed("k")
    wrong = post(right.data, auth=right.auth.upper())
    with pytest.raises(Refused):
        Keyring(default="k").verify(wrong)


def test_every_key_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is the same whichever key is right, or none, or whether the stream has a key of its own."""
    tried: list[str] = []
    compare = hmac.compare_digest

    def recording(a: bytes, b: bytes) -> bool:
        tried.append("compared")
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", recording)
    keyring = Keyring({"s": ["a", "b"]}, default=["c", "d"])
    for submission in (signed("a"), signed("b"), signed("c", "other"), signed("d", "other")):
        tried.clear()
        keyring.verify(submission)
        assert tried == ["compared"] * 2
    for submission in (signed("x"), signed("x", "other"), post("[1]")):
        tried.clear()
        with pytest.raises(Refused):
            keyring.verify(submission)
        assert tried == ["compared"] * 2


@pytest.mark.parametrize(
    ("keys", "default", "error", "words"),
    [
        ({"s": 7}, None, TypeError, r"keys\['s'\] must be .* not int"),
        ({"s": {"a": "b"}}, None, TypeError, r"keys\['s'\] must be .* not dict"),
        ({"s": ["a", None]}, None, TypeError, r"keys\['s'\]: auth_key must be .* not NoneType"),
        ({"s": ""}, None, ValueError, r"keys\['s'\]: auth_key must not be empty"),
        ({"s": []}, None, ValueError, r"keys\['s'\] must be at least one key"),
        ({"": "k"}, None, ValueError, "keys: stream must have 1 to"),
        ({7: "k"}, None, TypeError, "keys: stream must be a str"),
        ("k", None, TypeError, "keys must be a mapping of stream to key, not str"),
        (["k"], None, TypeError, "keys must be a mapping of stream to key, not list"),
        ({}, 7, TypeError, "default key must be"),
        ({}, "", ValueError, "default key: "),
    ],
)
def test_wrong_keyrings(keys: Any, default: Any, error: type[Exception], words: str) -> None:
    """A wrong key is refused when the keyring is made, by its stream."""
    with pytest.raises(error, match=f"^{words}"):
        Keyring(keys, default=default)


def test_a_keyring_shows_no_key() -> None:
    """Its repr has streams and fingerprints."""
    keyring = Keyring({"clicks": CANARY}, default=[CANARY + "2"])
    assert CANARY[:4] not in repr(keyring)
    one, other = AuthKey(CANARY).fingerprint, AuthKey(CANARY + "2").fingerprint
    assert repr(keyring) == f"<Keyring {{'clicks': (<AuthKey {one}>,)}} default=(<AuthKey {other}>,)>"
    assert repr(Keyring.__new__(Keyring)) == "<Keyring unfinished default=()>", "one that could not be made"


@pytest.mark.parametrize(
    ("keys", "default"),
    [
        ({"s": CANARY, "": "k"}, None),
        ({"s": [CANARY, 5]}, None),
        ({"s": CANARY}, 5),
        (CANARY, None),
        ({"s": 5}, CANARY),
    ],
)
def test_a_keyring_that_cannot_be_made_shows_no_key(keys: Any, default: Any) -> None:
    """A traceback with the local variables of all frames has none of the keys, whichever was wrong."""
    try:
        Keyring(keys, default=default)
    except (TypeError, ValueError) as error:
        # Those of the test itself are not ours to hide.
        lines = list(TracebackException.from_exception(error, capture_locals=True).stack)[1:]
    assert lines
    assert all(CANARY[:4] not in repr(line.locals) for line in lines)


# Answers


def test_answers() -> None:
    """A success has the body that old SDKs expect; a refusal its status and reason, and when to come back."""
    stored = answer()
    assert (stored.status, stored.body, stored.header("content-type")) == (200, b'{"Status":"OK"}', "application/json")
    for status in (400, 401, 413, 503):
        reply = answer(Refused(status, 'why "so"'))
        assert reply.status == status
        assert orjson.loads(reply.body) == {"Status": "error", "reason": 'why "so"'}
        assert reply.header("retry-after") == ("5" if status == 503 else None)
