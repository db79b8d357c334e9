"""A process that does tasks of a sweep: ``python -m deploy.sweeps.worker``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.core.child import Answer, Say, serve_saying
from deploy.core.interrupt import stoppable
from deploy.core.runner import Fetches
from deploy.sweeps.job import do_task


def main() -> None:
    """Do tasks until the parent closes the pipe; a signal undoes what is half done."""

    def answer_with(say: Say) -> Answer:
        def answer(request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
            return do_task(request["work"], Path(request["root"]), say), {}

        return answer

    with stoppable():
        serve_saying(answer_with)


if __name__ == "__main__":
    main()
