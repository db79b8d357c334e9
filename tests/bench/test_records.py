"""Records on the disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from deploy.bench.records import Cell, CellRecord, Repetition, load, record_path, save
from deploy.core.checked import dump_checked
from deploy.core.errors import ArtifactError, DigestError, StorageError
from deploy.core.records import is_record
from deploy.tools.verify import verify

CELL = Cell(
    model="zoo/m",
    slug="m",
    backend="onnxruntime",
    precision="fp32",
    digest="0" * 64,
    batch=2,
    sizes={"batch": 2},
    threads=1,
)


def _record(count: int = 3) -> CellRecord:
    record = CellRecord(cell=CELL, evidence={"verdict": "pass"}, about={"bytes": 7, "trained": True})
    rng = np.random.default_rng(0)
    for number in range(count):
        samples = rng.integers(1000, 2**40, 50)
        record = record.adding(Repetition(number=number, samples=samples, details={"load_ns": number}))
    return record


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    before = _record()
    path = save(tmp_path, before)
    after = load(path)
    assert path == record_path(tmp_path, CELL) and is_record(path)
    assert after.cell == before.cell and after.evidence == before.evidence
    for ours, theirs in zip(before.repetitions, after.repetitions, strict=True):
        assert (ours.samples == theirs.samples).all() and dict(ours.details) == dict(theirs.details)
    assert [item.name for item in path.parent.iterdir()] == [path.name], "nothing is left beside it"


def test_a_repetition_takes_the_place_of_the_one_with_its_number() -> None:
    record = _record(2).adding(Repetition(number=1, samples=np.array([5])))
    assert [item.number for item in record.repetitions] == [0, 1]
    assert record.repetitions[1].samples.tolist() == [5]


def test_the_key_changes_with_every_field() -> None:
    keys = {CELL.key}
    for change in (
        {"batch": 3},
        {"digest": "1" * 64},
        {"threads": 2},
        {"versions": {"onnxruntime": "2"}},
        {"device": "cuda"},
    ):
        keys.add(Cell(**{**{name: getattr(CELL, name) for name in Cell.__dataclass_fields__}, **change}).key)
    assert len(keys) == 6


def test_damage_is_found_by_load_and_by_verify(tmp_path: Path) -> None:
    path = save(tmp_path, _record())
    assert verify(tmp_path).sound == (path,)
    text = path.read_text()
    path.write_text(text.replace('"bytes": 7', '"bytes": 8'))
    with pytest.raises(DigestError, match=r"\.json"):
        load(path)
    assert len(verify(tmp_path).problems) == 1
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ArtifactError, match=r"\.json"):
        load(path)


def test_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, _record())
    path.write_text(dump_checked({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(ArtifactError, match="99"):
        load(path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        save(tmp_path, _record())
