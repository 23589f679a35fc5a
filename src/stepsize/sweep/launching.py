"""The fork server as a launcher of any Hydra multirun."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig

from stepsize.sweep.command import quoted, threads
from stepsize.sweep.composing import Composer
from stepsize.sweep.fork_server import ForkServer, Job, Process, tail, wait
from stepsize.sweep.launch import Application, call, run

log = logging.getLogger(__name__)


def launch(
    context: HydraContext,
    config: DictConfig,
    task: Callable[[Any], Any],
    jobs: Sequence[Sequence[str]],
    first: int,
    workers: int,
    preload: Sequence[str],
) -> list[JobReturn]:
    """Run jobs, each in a process of its own, and return what they returned, in order.

    A job that raises, or whose process dies, costs itself alone: its JobReturn raises where it is read. What a job
    prints goes to output.log in its folder.

    Args:
        context, config, task: of the application.
        jobs: overrides of each.
        first: number of the first.
        workers: jobs at once.
        preload: modules that the server imports.
    """
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    composer = Composer(context.config_loader, config)
    chosen: Counter[tuple[str, ...] | None] = Counter()
    with suppress(HydraException):  # a word that is wrong, its job will tell
        chosen = Counter(composer.groups(words) for words in jobs)
    often = [groups for groups, count in chosen.items() if groups is not None and count > 1]
    application = Application(context, config, task, expected=often)
    server = ForkServer([*preload, "stepsize.sweep.parsers"], application.packed())
    server.warm()
    left = list(enumerate(jobs))
    running: dict[Process, int] = {}
    returned: dict[int, JobReturn] = {}
    try:
        while left or running:
            while left and len(running) < workers:
                index, words = left.pop(0)
                number = first + index
                log.info("#%d: %s", number, " ".join(filter_overrides(words)))
                alone = [*words, f"hydra.sweep.dir={quoted(folder)}"]
                output = folder / str(number) / "output.log"
                words_alone = [*words, f"hydra.run.dir={quoted(folder / str(number))}"]
                job = Job(
                    call(run, alone, number), output, [os.path.abspath(sys.argv[0]), *words_alone], {}, threads(workers)
                )
                running[server.start(job)] = index
            for process in wait(list(running), 1.0):
                index = running.pop(process)
                outcome = process.outcome()
                if isinstance(outcome.value, JobReturn):
                    returned[index] = outcome.value
                else:
                    log.error("%s", tail(process.job.output))
                    reason = outcome.error or f"ended with exit code {outcome.exit_code}"
                    returned[index] = JobReturn(status=JobStatus.FAILED, overrides=jobs[index])
                    returned[index]._return_value = RuntimeError(f"#{first + index}: {reason}")
    finally:
        server.close()
    return [returned[index] for index in range(len(jobs))]
