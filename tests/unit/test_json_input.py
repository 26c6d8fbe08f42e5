"""JSON that others send: what is taken, and what is refused before Python's parser sees it."""

import json
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coread.plugin.json_input import DEEPEST, TooLarge, read_json

STACK_OF_ORTHANC_S_THREADS = 128 * 1024


@pytest.mark.parametrize("sent", [b"[" * 600, b'{"a":' * 600, b'["\\"[",' * 600, "[" * 100_000])
def test_what_is_nested_too_deeply_is_refused_unparsed(sent: bytes | str) -> None:
    with pytest.raises(TooLarge, match="levels"):
        read_json(sent)


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(TooLarge, match="at most 10 bytes of JSON, found 11"):
        read_json(b'"123456789"', largest=10)


def test_brackets_in_texts_nest_nothing() -> None:
    assert read_json('["' + "[{" * 600 + '\\"[\\\\"]') == ["[{" * 600 + '"[\\']
    assert read_json("[" * DEEPEST + "]" * DEEPEST)
    assert read_json("[" + "[]," * 600 + "[]]") == [[]] * 601


@pytest.mark.parametrize("sent", [b"", b"\xff", b"[}", b'{"a": NaN', b'"' + b"[" * 600, b"1" * 5000, b'["\\ud800"]'])
def test_what_is_no_json_is_refused_and_not_quoted(sent: bytes) -> None:
    with pytest.raises(ValueError, match=r"^expected JSON in UTF-8, found something else$"):
        read_json(sent)


@pytest.fixture
def small_stack() -> Iterator[None]:
    before = threading.stack_size(STACK_OF_ORTHANC_S_THREADS)
    yield
    threading.stack_size(before)


@pytest.mark.usefixtures("small_stack")
def test_the_deepest_that_is_taken_is_read_in_a_thread_as_small_as_orthanc_s() -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(read_json('{"a":' * DEEPEST + "1" + "}" * DEEPEST)))
    thread.start()
    thread.join()
    assert found


@given(st.text(alphabet='[]{}",\\:1 \n', max_size=40))
def test_measuring_refuses_nothing_that_the_parser_takes(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match="JSON"):
            read_json(text)
    else:
        assert read_json(text) == expected
