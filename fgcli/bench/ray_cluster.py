"""The executor `ray`: trials as tasks of a Ray cluster, with CPUs and GPUs as resources. Imports no torch."""

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from fgcli.bench import ray_task, task
from fgcli.bench.executor import FEWER, Outcome, Placement, Trial, refuse_crowded
from fgcli.bench.options import RayOptions
from fgcli.bench.process import GRACE_S
from fgcli.errors import UsageError
from fgcli.extend.extras import require

CONNECT_S = 20.0
"""For the cluster's head to answer."""


class RayExecutor:
    """Hands trials to Ray, which starts each again where its worker or node is lost."""

    def __init__(self, options: RayOptions) -> None:
        require("ray", "ray", what="executor ray")
        self.options = options

    def place(self, threads: int) -> Placement:
        """UsageError where there is no cluster, or no room in it."""
        ray = self._connected()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = self._cpus(threads), self.options.gpus
        unit = "thread" if self.options.cpus is None else "CPU"
        for name, asked, fewer in (("CPU", cpus, FEWER[unit]), ("GPU", gpus, "a lower option gpus")):
            largest = max((node.get(name, 0) for node in nodes), default=0)
            if asked > largest:
                raise UsageError(
                    f"--executor ray: a trial needs {asked:g} {name}{'s' * (asked != 1)}, and the largest node has "
                    f"{largest:g}; give {fewer}"
                )
        total = sum(node.get("CPU", 0) for node in nodes)
        refuse_crowded(self.options.jobs, cpus, total, "the Ray cluster has", unit)
        room = [min(_times(node, "CPU", cpus), _times(node, "GPU", gpus)) for node in nodes]
        at_once = self.options.jobs or max(1, int(sum(room)))
        used = sum(1 for times in room if times)
        return Placement(at_once, f"up to {at_once} trials at once by Ray, on {used} node{'s' * (used > 1)}")

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """Closing the iterator ends what runs, each with a checkpoint where it takes no longer than some seconds."""
        ray = self._connected()
        variables = {name: value for name, value in os.environ.items() if name == "PYTHONPATH" or name[:3] == "FG_"}
        waiting = iter(trials)
        running: dict[Future[int], tuple[Any, Trial]] = {}
        # Not `ray.wait`: it turns the exception of a signal, which is how Ctrl-C ends a bench, into another.
        ended = SimpleQueue[Future[int]]()
        try:
            while True:
                while self.options.jobs is None or len(running) < self.options.jobs:
                    trial = next(waiting, None)
                    if trial is None:
                        break
                    started = ray.remote(ray_task.run).options(
                        name=trial.name,
                        num_cpus=self._cpus(trial.threads),
                        num_gpus=self.options.gpus,
                        max_retries=self.options.retries,
                    )
                    task_of = started.remote(task.written(trial), os.getcwd(), variables)
                    future: Future[int] = task_of.future()
                    running[future] = task_of, trial
                    future.add_done_callback(ended.put)
                if not running:
                    return
                future = ended.get()
                _, trial = running.pop(future)
                yield Outcome(trial, _exit_code(ray, future, trial))
        finally:
            for one, _ in running.values():
                ray.cancel(one, force=False)
            for future in wait(running, timeout=GRACE_S + 5).not_done:  # it is killed with its worker
                ray.cancel(running[future][0], force=True)

    def _cpus(self, threads: int) -> float:
        return threads if self.options.cpus is None else self.options.cpus

    def _connected(self) -> Any:
        import ray  # pyright: ignore[reportMissingImports] # an extra

        if not ray.is_initialized():
            address = self.options.address
            try:
                if ":" in address and "://" not in address:  # Ray itself would try for minutes
                    host, _, port = address.rpartition(":")
                    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"--executor ray: there is no cluster at {address}; start one with `ray start --head`, or give its "
                    f"address as --executor-option address=HOST:PORT ({' '.join(str(error).split())[:200]})"
                ) from error
        return ray


def _times(node: dict[str, float], name: str, asked: float) -> float:
    return node.get(name, 0) // asked if asked else float("inf")


def _exit_code(ray: Any, future: Future[int], trial: Trial) -> int:
    try:
        return future.result()
    except ray.exceptions.RayError as error:  # the worker, or its node, was lost each time
        with trial.log.open("ab") as log:
            log.write(f"fg: Ray gave the trial up: {' '.join(str(error).split())[:1000]}\n".encode())
        return -9
