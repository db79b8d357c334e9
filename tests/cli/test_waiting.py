"""A terminal is never silent for long, results come when they are there, and the process ends with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="pseudo-terminals exist on Unix only")

FRAME = re.compile(rb"\r\x1b\[2K\S+ deploy \w+ \d+ s")

SLOW_TORCH = """
    import importlib.abc, os, signal, sys, time

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup: what draws must see by itself that this is gone

    class Slow(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                time.sleep(0.7)
                print("TORCH", file=sys.stderr, flush=True)
                os._exit(77)

    sys.meta_path.insert(0, Slow())
    from deploy.cli.main import main
    main()
"""
"""Runs a command line up to the import of PyTorch, which takes its time."""


def on_terminal(code: str, *arguments: str, folder: Path) -> tuple[int, bytes]:
    """Run Python code with a terminal as stdin, stdout and stderr; return the exit code and what it showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", PYTHONPATH=os.pathsep.join(sys.path), PYTHONIOENCODING="utf-8")
        os.execv(sys.executable, [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments])
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@pytest.mark.parametrize(
    "line",
    [
        "export lenet5",
        "check lenet5",
        "quantize lenet5 --calib digits",
        "train lenet5 --data digits",
        "bench lenet5",
        "evaluate lenet5 --data digits",
    ],
)
def test_something_moves_before_pytorch_is_imported(line: str, tmp_path: Path) -> None:
    code, shown = on_terminal(SLOW_TORCH, *line.split(), folder=tmp_path)
    assert code == 77, shown
    frames = FRAME.findall(shown[: shown.index(b"TORCH")])
    assert len(set(frames)) >= 3, shown


def test_the_line_is_cleared_before_the_result_and_before_an_error(tmp_path: Path) -> None:
    slow = """
        import sys, time
        import click
        from deploy.cli.main import main
        invoke = click.Command.invoke
        click.Command.invoke = lambda self, ctx: (ctx.parent and time.sleep(0.8), invoke(self, ctx))[1]
        main()
    """
    for line, code in (("models --layers", 2), ("verify nothing", 1)):
        ended, shown = on_terminal(slow, *line.split(), folder=tmp_path)
        assert ended == code, shown
        frames = list(FRAME.finditer(shown))
        assert frames and shown[frames[-1].end() :].startswith(b"\r\x1b[2K"), shown
        assert b"Error" in shown[frames[-1].end() :]


@pytest.mark.parametrize("line", ["--help", "--version", "no-such-command"])
def test_a_quick_answer_has_no_spinner(line: str, tmp_path: Path) -> None:
    _, shown = on_terminal("from deploy.cli.main import main; main()", *line.split(), folder=tmp_path)
    assert not FRAME.search(shown)


def test_no_spinner_with_quiet_or_without_a_terminal(tmp_path: Path) -> None:
    code, shown = on_terminal(SLOW_TORCH, "-q", "export", "lenet5", folder=tmp_path)
    assert code == 77 and not FRAME.search(shown)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SLOW_TORCH), "export", "lenet5"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 77 and done.stderr.strip() == b"TORCH"


@pytest.mark.parametrize("code", [0, 2])
def test_the_process_ends_with_its_result(code: int, tmp_path: Path) -> None:
    """The interpreter is not taken down: what a library left in memory is not finalized. Exit handlers do run."""
    script = """
        import atexit, sys

        class Heavy:
            def __del__(self):
                sys.__stderr__.write("taken down\\n")

        sys.modules["heavy"] = Heavy()
        from deploy.cli import main
        run = main._run
        main._run = lambda arguments: (
            atexit.register(lambda: print("handler", file=sys.stderr)), run(arguments)
        )[1]
        main.main()
    """
    arguments = ["--help"] if code == 0 else ["no-such-command"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == code
    assert ("Usage" in done.stdout) == (code == 0), "the output was lost"
    assert "handler" in done.stderr and "taken down" not in done.stderr


def test_python_m_deploy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "--version"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0
