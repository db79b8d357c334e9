"""The object in a worker process of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.core.interrupt import stoppable
from deploy.core.remote import Reply, notify
from deploy.core.runner import Feeds
from deploy.sweeps.job import do_task


class TaskWorker:
    """Runs tasks one after the other; a signal discards the partial results of the current one."""

    def run(self, _: Feeds, work: dict[str, Any], root: str) -> Reply:
        """Run a task and send its progress to the parent; see `deploy.sweeps.job.do_task`."""
        with stoppable():
            return do_task(work, Path(root), notify), {}
