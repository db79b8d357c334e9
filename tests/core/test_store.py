import json
import os
from pathlib import Path

import pytest

from deploy.core.artifact import Artifact, Manifest, Payload, manifest_path, sha256
from deploy.core.checked import dump_checked
from deploy.core.errors import ArtifactError, DigestError, StorageError
from deploy.core.model import Preprocessing, Weights
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec


def _publish(store: Store, content: bytes = b"model", name: str = "net.fp32.onnx", **fields: object) -> Artifact:
    with store.transaction("net") as transaction:
        transaction.path(name).write_bytes(content)
        manifest = Manifest(
            model="zoo/net",
            slug="net",
            format="onnx",
            precision="fp32",
            files=(Payload.of(transaction.path(name)),),
            inputs=(TensorSpec(name="input", dtype="float32", shape=("batch", 3)),),
            outputs=(),
            weights=Weights(source="untrained", trained=False, seed=0),
            preprocessing=Preprocessing(crop=(8, 8), mean=(0.5,), std=(0.5,)),
            **fields,  # type: ignore[arg-type]
        )
        return transaction.publish(manifest)


def test_what_is_published_can_be_opened_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "artifacts")
    made = _publish(store)
    found = Artifact.open(made.path)
    assert found == made
    found.verify()
    assert [item.path for item in store.artifacts()] == [made.path]
    assert sorted(path.name for path in made.path.parent.iterdir()) == [".lock", "net.fp32.onnx", "net.fp32.onnx.json"]


def test_nothing_is_left_of_a_transaction_that_failed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.transaction("net") as transaction:
        transaction.path("half").write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_transaction_keeps_what_was_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = _publish(store, b"first")
    with pytest.raises(RuntimeError), store.transaction("net") as transaction:
        transaction.path(made.path.name).write_bytes(b"second")
        raise RuntimeError
    made.verify()
    assert made.path.read_bytes() == b"first"


def test_a_dead_writers_scratch_folder_is_cleared(tmp_path: Path) -> None:
    dead = tmp_path / "net" / ".scratch-999999999-abc"
    dead.mkdir(parents=True)
    live = tmp_path / "net" / f".scratch-{os.getppid()}-abc"
    live.mkdir()
    _publish(Store(tmp_path))
    assert not dead.exists()
    assert live.exists()


def test_verify_finds_a_flipped_byte_a_missing_file_and_a_link(tmp_path: Path) -> None:
    made = _publish(Store(tmp_path))
    made.path.write_bytes(b"modeL")
    with pytest.raises(DigestError, match=r"net\.fp32\.onnx"):
        made.verify()
    made.path.unlink()
    with pytest.raises(DigestError, match=r"net\.fp32\.onnx"):
        made.verify()
    (tmp_path / "elsewhere").write_bytes(b"model")
    made.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DigestError, match=r"net\.fp32\.onnx"):
        made.verify()


@pytest.mark.parametrize(
    ("change", "datum"),
    [
        (lambda data: data.pop("files"), "files"),
        (lambda data: data.update(schema=99), "99"),
        (lambda data: data.update(surprise=1), "surprise"),
        (lambda data: data["files"][0].update(file="../../etc/passwd"), "passwd"),
        (lambda data: data["files"][0].update(file=".."), r"'\.\.'"),
        (lambda data: data.update(files=[]), "files"),
        (lambda data: data.update(inputs=[{"name": 1}]), "inputs"),
        (lambda data: data.update(created=1), "created"),
        (lambda data: data["files"][0].update(file="other.onnx"), r"other\.onnx"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, change, datum: str) -> None:  # type: ignore[no-untyped-def]
    made = _publish(Store(tmp_path))
    beside = manifest_path(made.path)
    data = json.loads(beside.read_text())
    change(data)
    beside.write_text(dump_checked(data))
    with pytest.raises(ArtifactError, match=datum):
        Artifact.open(made.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_manifest_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    made = _publish(Store(tmp_path))
    manifest_path(made.path).write_text(text)
    with pytest.raises(ArtifactError):
        Artifact.open(made.path)


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"), Store(tmp_path / "file").transaction("net"):
        pass


def test_sha256_of_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing"):
        sha256(tmp_path / "nothing")
