"""No command drops an option: in every pair of options each one changes what happens, or is refused by name."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import deploy
from deploy import terminal
from deploy.cli.main import Settings, cli
from deploy.core.errors import UsageError
from deploy.core.progress import SILENT

PURE = ("parse_spec",)
"""Functions that only read their arguments; they run."""

IGNORED = ("progress", "listener", "watch", "ready")
"""Arguments that receive messages."""

SAMPLES: dict[str, list[str]] = {
    "--address": ["ray://head:10001"],
    "--arch": ["resnet18", "lenet5"],
    "--backend": ["openvino"],
    "--backends": ["torch,onnxruntime", "openvino"],
    "--baseline": ["onnxruntime"],
    "--budget": ["2min"],
    "--max-latency": ["5ms"],
    "--max-size": ["20MB"],
    "--threads": ["3", "2,4"],
    "--batch": ["2", "2,4", "1:2:4", "dynamic"],
    "--calib": ["digits", "cifar10"],
    "--data": ["digits", "cifar10"],
    "--engine": ["ray"],
    "--format": ["tensorrt", "csv", "json"],
    "--input": ["x:batch,3"],
    "--method": ["entropy"],
    "--model": ["resnet18", "lenet5"],
    "--precision": ["fp16", "fp16,int8", "int8"],
    "--size": ["length=16", "height=64"],
    "--runtime": ["tensorrt-rtx"],
    "--rename": ["x=image", "y=logits"],
    "--iou-threshold": ["0.4"],
    "--score-threshold": ["0.2"],
    "--with": ["postprocessing", "preprocessing,postprocessing"],
    "--scenario": ["server", "loadgen", "throughput"],
    "--target": ["tensorrt"],
    "--to": ["onnxruntime==1.27.0"],
    "--weights": ["default", "none"],
    "-o": ["classes=3"],
    "file": ["one.onnx", "two.onnx"],
    "first": ["resnet18", "torch"],
    "model": ["resnet18", "lenet5"],
    "models": ["resnet18", "lenet5"],
    "second": ["lenet5", "openvino"],
    "what": ["resnet18", "lenet5"],
    "export --format": ["tensorrt"],
}
"""Values of options whose type does not say what is valid, of all commands or of one."""

CONTEXTS: dict[str, list[list[str]]] = {
    "bench": [
        ["--precision", "int8"],
        ["--device", "cuda"],
        ["--scenario", "server"],
        ["--scenario", "loadgen"],
        ["--scenario", "loadgen", "--mode", "server"],
        ["--scenario", "throughput"],
        ["--compare", "one.onnx", "two.onnx"],
        ["resnet18", "--explain"],
    ],
    "check": [["resnet18"], ["weights.pt", "--arch", "resnet18"]],
    "export": [["weights.pt", "--arch", "resnet18"]],
    "optimize": [["weights.pt", "--arch", "resnet18"]],
    "models": [["resnet18", "--layers"]],
    "sweep": [
        ["sweep.yaml"],
        ["sweep.yaml", "--dry-run"],
        ["--precision", "int8", "--calib", "digits"],
        ["--dry-run"],
        ["--engine", "ray"],
    ],
    "trt build": [["--int8", "--calib", "digits"], ["--print-trtexec"]],
    "verify": [["--key", "key.pub"]],
}
"""Options that make others apply; the pairs are tried beside each of these lists, too."""


class FakeReport:
    """Stands for any report."""

    verdict = "pass"
    guard = None
    exit_code = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return FakeReport(f"{self.name}.{name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeReport) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __bool__(self) -> bool:
        return not self.name.endswith((".broken", ".problems"))

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[FakeReport]:
        return iter([FakeReport(f"{self.name}[]")])

    def to_dict(self) -> dict[str, Any]:
        return {"report": self.name}

    tolist = to_dict
    """What `deploy.core.plain.to_plain` calls."""


@dataclass
class Recorder:
    """Replaces functions by ones that note their arguments."""

    calls: list[Any]

    def function(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> FakeReport:
            used = {key: value for key, value in options.items() if key not in IGNORED}
            self.calls.append((name, [item for item in arguments if item is not SILENT], used))
            options.get("ready", len)(FakeReport("server"))
            return FakeReport(name)

        return call


@dataclass(frozen=True)
class Choice:
    """One value of one parameter.

    Attributes:
        param: the parameter.
        words: what the user types.
        base: it is there in any case, because the parameter is required.
    """

    param: click.Parameter
    words: tuple[str, ...]
    base: bool = False

    @property
    def names(self) -> list[str]:
        """How a message may call it."""
        metavar = self.param.metavar or self.param.human_readable_name
        return list(self.param.opts) if isinstance(self.param, click.Option) else [*re.findall(r"\w+", metavar)]

    def __str__(self) -> str:
        return " ".join(self.words)


Outcome = tuple[str, Any]
"""``refused`` with the message, or ``done`` with the calls and what was printed."""


class Walk:
    """Runs a command with options, each combination once.

    Args:
        name: of the command.
        command: to run.
        recorder: notes what the command calls.
        files: values of parameters that are paths: one per suffix.
    """

    def __init__(self, name: str, command: click.Command, recorder: Recorder, files: Mapping[str, Path]) -> None:
        self.name, self.command, self.recorder, self.files = name, command, recorder, files
        self.outcomes: dict[tuple[str, ...], Outcome] = {}

    def run(self, words: Sequence[str]) -> Outcome:
        """Run the command line."""
        key = tuple(words)
        if key not in self.outcomes:
            self.recorder.calls.clear()
            settings = Settings(artifacts=Path("artifacts"), verbose=False, quiet=True)
            ran = CliRunner().invoke(self.command, key, obj=settings, standalone_mode=False)
            error = ran.exception
            if isinstance(error, UsageError | click.UsageError):
                message = error.message if isinstance(error, UsageError) else error.format_message()
                self.outcomes[key] = ("refused", message)
            elif error is not None:
                raise AssertionError(f"deploy {self.name} {' '.join(key)}: {error!r}") from error
            else:
                self.outcomes[key] = ("done", (repr(self.recorder.calls), ran.stdout))
        return self.outcomes[key]

    def choices(self, param: click.Parameter) -> list[Choice]:
        """Values of a parameter that are not its default."""
        if isinstance(param, click.Argument):
            return [Choice(param, values, param.required) for values in self._values(param)]
        if isinstance(param, click.Option) and param.is_flag:
            return [Choice(param, ((param.secondary_opts or param.opts)[-1],))]
        valid = [values for values in self._values(param) if self._takes(param, values)]
        assert valid, f"deploy {self.name} {param.opts[0]}: no sample value; add one to SAMPLES"
        return [Choice(param, (param.opts[0], *values), param.required) for values in valid]

    def _values(self, param: click.Parameter) -> list[tuple[str, ...]]:
        special = SAMPLES.get(f"{self.name} {param.opts[0]}", SAMPLES.get(param.opts[0]))
        if special and not isinstance(param.type, click.Choice):
            return [(text,) for text in special]
        return [self._sample(param, number) for number in range(2)]

    def _sample(self, param: click.Parameter, number: int) -> tuple[str, ...]:
        kind = param.type
        kind = kind.types[0] if isinstance(kind, click.Tuple) else kind
        text = ("other", "another")[number]
        if isinstance(kind, click.Choice):
            text = kind.choices[(number + 1) % len(kind.choices)]
        elif isinstance(kind, click.types.IntRange | click.types.FloatRange):
            low = kind.min if kind.min is not None else 0
            text = str(int(low) + 3 + 4 * number)
        elif kind.name == "percent":
            text = f"{3 + number}%"
        elif kind.name == "size":
            text = f"{1 + number}MiB"
        elif kind.name == "list":
            text = f"{2 + number},7" if kind.numbers else f"{text},more"
        elif isinstance(kind, click.Path):
            text = str(list(self.files.values())[number] if kind.file_okay else self.files["folder"])
        elif kind is click.INT or kind is click.FLOAT:
            text = str(3 + 4 * number)
        elif param.metavar and "KEY=VALUE" in param.metavar:
            text = f"crop={8 + number}"
        return (text,) * (param.nargs if param.nargs > 0 else 1)

    def _takes(self, param: click.Parameter, values: tuple[str, ...]) -> bool:
        """Whether the parameter takes the value, and it is not the default."""
        default, value = (
            self.command.make_context(self.name, words, resilient_parsing=True).params[param.name or ""]
            for words in ([], [param.opts[0], *values])
        )
        return value is not None and value != default

    def problems(self) -> Iterator[str]:
        """Yield every option that is dropped: alone, or beside another one."""
        everything = [choice for param in self.command.params if param.name != "help" for choice in self.choices(param)]
        required: dict[str | None, Choice] = {}
        for choice in everything:
            if choice.base:
                required.setdefault(choice.param.name, choice)
        others = [choice for choice in everything if choice not in required.values()]
        used: set[str | None] = {choice.param.name for choice in required.values()}
        for context in [[], *CONTEXTS.get(self.name, [])]:
            free = [choice for choice in others if not self._is_in(choice.param, context)]
            plain = self._line(required, context, [])
            used |= {
                param.name
                for param in self.command.params
                if isinstance(param, click.Option) and self._is_in(param, context)
                if self._changes(self._line(required, self._less(param, context), []), plain)
            }
            for first in free:
                if self._changes(plain, self._line(required, context, [first])):
                    used.add(first.param.name)
            for first, second in itertools.permutations(free, 2):
                if first.param is second.param:
                    continue
                without, both = (self._line(required, context, items) for items in ([second], [first, second]))
                if not self._changes(without, both) and not self._names(both, first, second):
                    yield f"deploy {self.name} {' '.join(both)}: {first} has no effect ({self.run(both)})"
                elif self._changes(without, both):
                    used.add(first.param.name)
        for choice in others:
            if choice.param.name not in used:
                yield f"deploy {self.name}: {choice} is refused everywhere"

    def _less(self, param: click.Option, context: list[str]) -> list[str]:
        """Return a context without an option and its values."""
        at = next(index for index, word in enumerate(context) if word in param.opts)
        return context[:at] + context[at + 1 + (0 if param.is_flag else param.nargs) :]

    def _is_in(self, param: click.Parameter, context: list[str]) -> bool:
        if isinstance(param, click.Argument):
            return bool(context) and not context[0].startswith("-")
        return bool(set(param.opts) & set(context))

    def _line(self, required: Mapping[str | None, Choice], context: list[str], items: list[Choice]) -> list[str]:
        names = {item.param.name for item in items}
        base = [item for item in required.values() if not self._is_in(item.param, context)]
        chosen = [*(item for item in base if item.param.name not in names), *items]
        ordered = sorted(chosen, key=lambda item: self.command.params.index(item.param))
        return [*context, *(word for item in ordered for word in item.words)]

    def _changes(self, without: list[str], words: list[str]) -> bool:
        """Whether a command line does something, and that is not the same as without the option."""
        return self.run(words)[0] == "done" and self.run(words) != self.run(without)

    def _names(self, words: list[str], *items: Choice) -> bool:
        """Whether a command line is refused with a message that names one of the options."""
        state, message = self.run(words)
        names = [name for item in items for name in item.names]
        return state == "refused" and any(
            re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", message) for name in names
        )


def commands() -> dict[str, click.Command]:
    """All commands by name, those of groups too."""
    found: dict[str, click.Command] = {}
    with click.Context(cli) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                found |= {f"{name} {inner}": item for inner, item in command.commands.items()}
            else:
                found[name] = command
    return found


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """All public functions, and all that print reports, replaced."""
    recorder = Recorder([])
    for name in deploy.__all__:
        function = getattr(deploy, name)
        if inspect.isfunction(function) and name not in PURE:
            monkeypatch.setattr(importlib.import_module(function.__module__), name, recorder.function(name))
    for module in (
        importlib.import_module(item.name) for item in pkgutil.iter_modules(terminal.__path__, "deploy.terminal.")
    ):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith(("show_", "as_")) and function.__module__ == module.__name__:
                monkeypatch.setattr(module, name, recorder.function(name))
    monkeypatch.setattr(click, "launch", recorder.function("launch"))
    monkeypatch.setattr("deploy.support.cuda_driver.gpus", lambda: ("a GPU",))
    monkeypatch.setattr("deploy.sweeps.sweep.count_tasks", recorder.function("count_tasks"))

    @contextmanager
    def silent(self: Settings, *, drawn: bool = True) -> Iterator[Any]:
        yield SILENT

    monkeypatch.setattr(Settings, "progress", silent)
    return recorder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two files and a folder."""
    monkeypatch.chdir(tmp_path)
    found = {"one": Path("one.onnx"), "two": Path("two.onnx"), "folder": Path("folder")}
    found["folder"].mkdir()
    for path in (found["one"], found["two"], Path("weights.pt")):
        path.touch()
    return found


@pytest.mark.parametrize("name", commands())
def test_every_option_takes_effect_beside_every_other_one(
    name: str, recorder: Recorder, files: dict[str, Path]
) -> None:
    problems = list(Walk(name, commands()[name], recorder, files).problems())
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:20])


def tiny(record: Callable[..., Any], call: Callable[..., None]) -> click.Command:
    """A command with two options; ``call(record, one, two)`` decides what becomes of them."""

    @click.command()
    @click.option("--one", type=int)
    @click.option("--two", is_flag=True)
    def command(one: int | None, two: bool) -> None:
        call(record, one, two)

    return command


def refuse(option: str) -> None:
    raise click.UsageError(f"{option} has no effect here.")


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda record, one, two: record(one), "--two has no effect"),
        (lambda record, one, two: record(one, two and one is None), "--one 3 --two: --two has no effect"),
        (lambda record, one, two: record(one, two) if not two else refuse("--two"), "--two is refused everywhere"),
        (lambda record, one, two: record(one, two) if not (one and two) else refuse("it"), "--one 3 has no effect"),
    ],
    ids=["dropped", "dropped beside another", "always refused", "refused without a name"],
)
def test_the_walk_finds_an_option_that_is_dropped(
    call: Callable[..., None], problem: str, files: dict[str, Path]
) -> None:
    recorder = Recorder([])
    problems = list(Walk("tiny", tiny(recorder.function("run"), call), recorder, files).problems())
    assert any(problem in found for found in problems), problems


def test_the_walk_accepts_options_that_are_used_or_refused(files: dict[str, Path]) -> None:
    recorder = Recorder([])

    def call(record: Callable[..., Any], one: int | None, two: bool) -> None:
        record(one, two) if not (one and two) else refuse("--two")

    assert not list(Walk("tiny", tiny(recorder.function("run"), call), recorder, files).problems())


def test_quiet_and_verbose_exclude_each_other(run: Callable[..., Any]) -> None:
    ran = run("--quiet", "--verbose", "models")
    assert ran.code == 2 and "--quiet" in ran.err and "--verbose" in ran.err
