"""Parsers of names, shapes and manifests return a value or raise a documented error for any input."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.core.artifact import Manifest
from deploy.core.checked import ChecksumError, dump_checked, load_checked
from deploy.core.tensors import DTYPES, TensorSpec, parse_input
from deploy.core.text import visible

from . import fuzz

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SYMBOL = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
MOST = settings(max_examples=300, deadline=None, derandomize=True)


@MOST
@given(st.dictionaries(st.text().filter(lambda name: name != "sha256"), PLAIN, max_size=4))
def test_checked_documents_are_read_as_written(content: dict[str, object]) -> None:
    assert load_checked(dump_checked(content)) == content
    assert dump_checked(load_checked(dump_checked(content))) == dump_checked(content)


@MOST
@given(st.dictionaries(st.text(), PLAIN, min_size=1, max_size=4), st.data())
def test_any_change_to_a_checked_document_is_detected(content: dict[str, object], data: st.DataObject) -> None:
    text = dump_checked(content)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda sign: sign != text[place]))
    with pytest.raises(ValueError):
        load_checked(text[:place] + other + text[place + 1 :])
    assert issubclass(ChecksumError, ValueError)


@MOST
@given(SYMBOL, st.lists(st.integers(1, 10**6) | SYMBOL, max_size=5), st.sampled_from(DTYPES))
def test_an_input_is_read_as_it_is_written(name: str, dims: list[int | str], dtype: str) -> None:
    told = [f"{dim}=7" if isinstance(dim, str) and dim != "batch" else str(dim) for dim in dims]
    spec, sizes = parse_input(f"{name}:{','.join(told)}:{dtype}")
    assert (spec.name, spec.shape, spec.dtype) == (name, tuple(dims), dtype)
    assert sizes == {dim: 7 for dim in dims if isinstance(dim, str) and dim != "batch"}


@MOST
@given(st.lists(st.tuples(SYMBOL, st.lists(st.integers(1, 999) | SYMBOL, max_size=4)), min_size=1, max_size=3))
def test_a_manifest_comes_back_as_it_was(specs: list[tuple[str, list[int | str]]]) -> None:
    from dataclasses import replace

    inputs = tuple(TensorSpec(name=name, dtype="float32", shape=tuple(shape)) for name, shape in specs)
    manifest = replace(fuzz.MANIFEST, inputs=inputs)
    assert Manifest.from_json(manifest.to_json(), Path("x.json")) == manifest


@MOST
@given(st.text())
def test_control_characters_are_escaped(text: str) -> None:
    shown = visible(text)
    assert all(sign in "\n\t" or sign.isprintable() or ord(sign) > 0x9F for sign in shown) and visible(shown) == shown


@MOST
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    fuzz.one_input(data)


@pytest.mark.parametrize("times", [2_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_mutations_of_what_is_right(times: int) -> None:
    chance = random.Random(0)
    for _ in range(times):
        fuzz.one_input(fuzz.mutated(chance))


@pytest.mark.parametrize("text", ["x:²", "x:3:float32:²..3", f"x:{'9' * 5000}", "x:batch=²", "x:٣"])
def test_digits_that_are_no_numbers(text: str) -> None:
    fuzz.one_input(text.encode())
