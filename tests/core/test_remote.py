"""Objects in child processes: values, arrays, messages and errors cross; a crash or a hang is an error."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import (
    BackendCrashedError,
    BackendError,
    DigestError,
    MissingPackageError,
    UnknownNameError,
)
from deploy.core.remote import Remote

OBJECT = """
import os, signal, time
from deploy.core.errors import DigestError, MissingPackageError, UnknownNameError
from deploy.core.remote import notify

print("an import that prints")

class OwnError(DigestError):
    pass

class Echo:
    def __init__(self, *words):
        self.words = words

    def echo(self, arrays, **values):
        print("a method that prints")
        return {"words": self.words, **values}, {name: array * 2 for name, array in arrays.items()}

    def count(self, _, to):
        for number in range(to):
            notify({"number": number})
        return {}, {}

    def unknown(self, _):
        raise UnknownNameError("fruit", "aple", ["apple", "kiwi"], "known: apple, kiwi")

    def missing(self, _):
        raise MissingPackageError("nothing", "the test", "nothing")

    def own(self, _):
        raise OwnError("a.onnx: differs.", "do it again")

    def foreign(self, _):
        raise ZeroDivisionError("by zero")

    def hang(self, _):
        time.sleep(1000)

    def die(self, _):
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "echo_object.py").write_text(OBJECT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with Remote("echo_object:Echo", ("a", "b"), name="echo") as found:
        yield found
    assert found.dead


def test_values_and_arrays(remote: Remote) -> None:
    reply, arrays = remote.call("echo", {"x": np.arange(3)}, number=1, nested={"a": [None]})
    assert reply.pop("peak_bytes") == remote.peak_bytes > 0
    assert reply == {"words": ["a", "b"], "number": 1, "nested": {"a": [None]}}
    assert arrays["x"].tolist() == [0, 2, 4]


def test_messages_come_before_the_reply(remote: Remote) -> None:
    numbers: list[int] = []
    remote.call("count", to=3, listener=lambda message: numbers.append(message["number"]))
    assert numbers == [0, 1, 2]
    assert remote.call("count", to=2)[0]["peak_bytes"], "without a listener they are dropped"


def test_an_error_keeps_its_class(remote: Remote) -> None:
    with pytest.raises(UnknownNameError) as unknown:
        remote.call("unknown")
    assert tuple(unknown.value.suggestions) == ("apple",) and unknown.value.hint == "known: apple, kiwi"
    with pytest.raises(MissingPackageError) as missing:
        remote.call("missing")
    assert missing.value.hint == "pip install nothing"
    with pytest.raises(DigestError) as own:
        remote.call("own")
    assert (str(own.value), own.value.hint, own.value.exit_code) == ("a.onnx: differs.", "do it again", 3)
    with pytest.raises(BackendError, match="ZeroDivisionError: by zero"):
        remote.call("foreign")
    assert remote.call("echo")[0], "it answers after an error"


def test_a_hang_is_an_error(remote: Remote) -> None:
    began = time.monotonic()
    with pytest.raises(BackendCrashedError, match=r"echo.*0\.5 s"):
        remote.call("hang", timeout_s=0.5)
    assert time.monotonic() - began < 60 and remote.dead


def test_a_crash_is_an_error(remote: Remote) -> None:
    with pytest.raises(BackendCrashedError, match=r"echo.*SIGSEGV"):
        remote.call("die")
    with pytest.raises(BackendCrashedError):
        remote.call("echo")


def test_a_target_that_cannot_be_built_is_an_error() -> None:
    with (
        Remote("no_such_module:Nothing", name="nothing") as remote,
        pytest.raises(BackendCrashedError, match="status 1"),
    ):
        remote.call("echo")
