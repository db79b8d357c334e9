"""The options of ``deploy`` itself are taken anywhere, and ``--json`` in front of the command, too."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from deploy.cli.main import cli, main


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[click.Context]:
    """The contexts of a command that stands for every command."""
    contexts: list[click.Context] = []

    @click.command()
    @click.argument("names", nargs=-1)
    @click.option("--name")
    @click.option("--json", "as_json", is_flag=True)
    @click.pass_context
    def command(ctx: click.Context, /, **options: object) -> None:
        contexts.append(ctx)

    monkeypatch.setattr(type(cli), "get_command", lambda self, ctx, name: command)
    return contexts


@pytest.mark.parametrize(
    "line",
    [
        "--artifacts there -v --json export one --name two",
        "export one --name two -v --artifacts there --json",
        "export --verbose one --artifacts=there --json --name two",
        "--json export --artifacts there one -v --name two",
    ],
)
def test_any_place(line: str, ran: list[click.Context]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert not ended.value.code
    (context,) = ran
    assert context.obj.artifacts == Path("there") and context.obj.verbose and not context.obj.quiet
    assert context.params == {"names": ("one",), "name": "two", "as_json": True}


def test_what_follows_two_dashes_is_left_alone(ran: list[click.Context]) -> None:
    with pytest.raises(SystemExit):
        main(["--json", "export", "--", "-v", "--artifacts"])
    assert ran[0].params["names"] == ("-v", "--artifacts") and ran[0].params["as_json"]
    assert not ran[0].obj.verbose


def test_contradictions_and_missing_values_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("export lenet5 -q -v", "export lenet5 --artifacts", "-q export lenet5 --verbose"):
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        assert ended.value.code == 2, line
    with pytest.raises(SystemExit) as ended:
        main(["--json", "models", "nothing-like-this", "--layers"])
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "UnknownNameError"
