"""`Secret` gives itself away to `reveal()` and to nothing else."""

import copy
import dataclasses
import json
import pickle
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.secrets import Secret

MARK = "tainted-5f3c"
REDACTED = "Secret(<redacted>)"


@dataclasses.dataclass(frozen=True)
class Holder:
    name: str
    secret: Secret


def test_text_and_bytes_are_revealed_as_bytes() -> None:
    assert Secret(MARK).reveal() == MARK.encode()
    assert Secret(b"\xff\x00").reveal() == b"\xff\x00"
    assert Secret("ключ").reveal() == "ключ".encode()


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        lambda s: f"{s}",
        lambda s: f"{s!r:>60}".strip(),
        lambda s: f"{s:>60}",
        lambda s: f"{s:d}",
        lambda s: "%s" % s,  # noqa: UP031 - the old operator is one of the ways out that is tested
        lambda s: "{0:x^3}".format(s),  # noqa: UP030, UP032 - so is this one
    ],
)
@pytest.mark.parametrize("value", [MARK, "", "x" * 500])
def test_every_text_form_is_one_constant(show: Callable[[Secret], str], value: str) -> None:
    assert show(Secret(value)) == REDACTED


def test_containers_and_dataclasses_show_the_redaction() -> None:
    holder = Holder("openai", Secret(MARK))
    assert repr(holder) == f"Holder(name='openai', secret={REDACTED})"
    assert str([holder.secret]) == f"[{REDACTED}]"
    assert str(dataclasses.asdict(holder)) == f"{{'name': 'openai', 'secret': {REDACTED}}}"


def test_exception_text_and_traceback_with_locals_are_clean() -> None:
    def fail(secret: Secret) -> None:
        raise RuntimeError("refused", secret, f"{secret}")

    with pytest.raises(RuntimeError) as caught:
        fail(Secret(MARK))
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert REDACTED in shown
    assert "secret = Secret(<redacted>)" in shown
    # This test's own MARK is a global, so no frame's locals hold it.
    assert MARK not in shown
    assert MARK not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused(protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret(MARK), protocol)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps({"key": [Secret(MARK)]}, protocol)


def test_other_ways_to_the_bytes_are_closed() -> None:
    secret = Secret(MARK)
    with pytest.raises(TypeError):
        secret.__getstate__()
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        bytes(secret)  # type: ignore[call-overload]  # the refusal is what is tested
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(TypeError):
        len(secret)  # type: ignore[arg-type]  # the refusal is what is tested


def test_copies_are_equal_and_keep_the_value() -> None:
    secret = Secret(MARK)
    assert copy.copy(secret).reveal() == MARK.encode()
    assert copy.deepcopy({"k": secret})["k"] == secret


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_equality_is_that_of_the_bytes(left: bytes, right: bytes) -> None:
    assert (Secret(left) == Secret(right)) is (left == right)
    assert (Secret(left) != Secret(right)) is (left != right)
    assert Secret(left) == Secret(left)


def test_never_equal_to_a_bare_value() -> None:
    assert Secret(MARK) != MARK
    assert Secret(MARK) != MARK.encode()
    assert MARK.encode() != Secret(MARK)


def test_not_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(MARK))
    with pytest.raises(TypeError, match="unhashable"):
        {Secret(MARK)}


def test_truth_is_non_emptiness() -> None:
    assert bool(Secret(b"\x00")) is True
    assert bool(Secret(b"")) is False
    assert bool(Secret("")) is False


def test_unencodable_text_is_refused_without_a_trace_of_it() -> None:
    with pytest.raises(ValueError, match="cannot be encoded") as caught:
        Secret(MARK + "\ud800")
    assert MARK not in str(caught.value)
    # A UnicodeEncodeError in the chain would carry the whole text as `.object`.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [None, 7, bytearray(b"x"), ["x"]])
def test_other_types_are_refused_by_type_name_only(value: object) -> None:
    with pytest.raises(TypeError, match=rf"not {type(value).__name__}$"):
        Secret(value)  # type: ignore[arg-type]  # the refusal is what is tested
