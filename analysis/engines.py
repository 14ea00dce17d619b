"""Where tasks are answered: one after the other in this process, or by the workers of a Dask cluster."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from analysis.questions import Network, Progress, Question
from evssm.foreign import told_in_a_line
from evssm.sources import NetworkSource
from evssm.stamp import network_stamp

REFUSALS = (ValueError, LookupError, OSError)
"""What may be wrong with one image while others go on; anything else is a mistake of the program and ends the run."""

AHEAD = 2
"""Tasks that a worker is given at a time: the next one waits where the present one is answered."""


@dataclass(frozen=True, eq=False)
class Task:
    """One question to one network about one image `c h w`; `key` is the digest of all three."""

    source: NetworkSource
    weights: str
    image: Tensor
    question: Question
    key: str
    device: str = "cpu"
    threads: int | None = None

    def answer(self, net: Network, progress: Progress = None) -> Any:
        """The answer of `net`, which `source` made; one's own network is told of in a line, whatever it raises."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with told_in_a_line(self.source.name, own=self.source.own):
                return self.question.answer(net, self.image.to(self.device), progress)
        finally:
            torch.set_num_threads(before)


Tick = Callable[[int, float], object]
"""Told which task went on, by number, and what share of it is done."""


@runtime_checkable
class Engine(Protocol):
    """Answers tasks in whatever order: pairs of a task's number and its answer, or what was wrong with it.

    `networks` are those of the tasks, made in this process.
    """

    def __call__(
        self, tasks: Iterable[Task], networks: Mapping[NetworkSource, Network], tick: Tick
    ) -> Iterator[tuple[int, Any]]: ...


def in_turn(tasks: Iterable[Task], networks: Mapping[NetworkSource, Network], tick: Tick) -> Iterator[tuple[int, Any]]:
    """The plain loop."""
    for number, task in enumerate(tasks):

        def progress(done: int, total: int, number: int = number) -> None:
            tick(number, done / total)

        try:
            answer = task.answer(_on(task.device, networks[task.source]), progress)
        except REFUSALS as error:
            answer = error
        yield number, answer


class OnWorkers:
    """The workers of a Dask cluster; the tasks of one that dies are given to others.

    `cluster` is "local" (as many processes as `workers` says; by default one for each GPU or CPU core), "slurm" (as
    many jobs; partition, time, memory and the like come from Dask's `jobqueue.yaml`) or the address of a Dask
    scheduler, "tcp://host:8786", whose workers have one thread and one GPU each. Processes and jobs live as long as
    there are tasks. `threads` are the CPU threads of a task; `say` is told of workers that died.

    Raises `ValueError` where Dask is missing or more workers are asked for than there are GPUs.
    """

    def __init__(
        self,
        cluster: str,
        workers: int | None = None,
        *,
        device: str = "cpu",
        threads: int = 1,
        say: Callable[[str], object] | None = None,
    ) -> None:
        if find_spec("distributed") is None:
            raise ValueError('--cluster needs Dask, which is not installed: pip install -e ".[cluster]"')
        if cluster not in ("local", "slurm") and "://" not in cluster:
            raise ValueError(f"--cluster {cluster} is none of local, slurm and an address such as tcp://host:8786")
        if cluster == "slurm" and workers is None:
            raise ValueError("--cluster slurm takes as many jobs as --workers says; give --workers 16")
        self.cluster, self.device, self.threads, self.say = cluster, device, threads, say or (lambda line: None)
        self.environments = worker_environments(workers, device) if cluster == "local" else []
        self.workers = workers or len(self.environments)

    def __call__(
        self, tasks: Iterable[Task], networks: Mapping[NetworkSource, Network], tick: Tick
    ) -> Iterator[tuple[int, Any]]:
        waiting, numbers, known = enumerate(tasks), dict[str, int](), set[str]()
        with self._client() as client:
            from distributed import as_completed

            running = as_completed()

            def give() -> None:
                """Keeps every worker supplied, and no more in flight than that."""
                there = set(client.nthreads())
                if died := known - there:
                    self.say(f"{len(died)} of {len(known)} workers died; what they had begun is given to others")
                known.clear()
                known.update(there)
                free = AHEAD * max(1, self.workers, len(there)) - len(numbers)
                for number, task in islice(waiting, max(0, free)):  # fewer workers than before: nothing new
                    future = client.submit(_answered, task, key=f"answer-{task.key}", pure=False)
                    numbers[future.key] = number
                    running.add(future)

            give()
            for future in running:
                number = numbers.pop(future.key)
                answer = _result(future)
                yield number, answer
                give()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        import dask

        dask.config.set({"logging": {"distributed": "error"}})  # before it is imported: it reports every move
        from distributed import Client

        with ExitStack() as stack:
            if self.cluster == "local":
                there: Any = stack.enter_context(_processes(self.environments))
            elif self.cluster == "slurm":
                there = stack.enter_context(_jobs(self.workers, self.device, self.threads))
            else:
                there = self.cluster
            yield stack.enter_context(Client(there, timeout="30s"))


def _result(future: Any) -> Any:
    """The answer, or what was wrong with its task."""
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        return OSError(
            "every worker that took this task died, perhaps for want of memory; try fewer --workers or a smaller --size"
        )
    except FutureCancelledError as error:
        raise OSError("the cluster went away; what is finished is kept, and the same command goes on") from error
    except REFUSALS as error:
        return error
    finally:
        future.release()


_one_at_a_time = threading.Lock()  # a worker with several threads has one network, which no two tasks may hold at once


def _answered(task: Task) -> Any:
    """The answer to a task, on a worker, whose network is kept from one task to the next."""
    with _one_at_a_time:
        net, weights = _made(task.source, task.device)
        if weights != task.weights:  # the file behind the name has changed since
            _made.cache_clear()
            net, weights = _made(task.source, task.device)
        if weights != task.weights:
            raise ValueError(
                f"{task.source.name} has other weights on a worker than here; give it weights that every process "
                "makes alike, and the same files and versions on every machine"
            )
        return task.answer(net)


@lru_cache(maxsize=2)
def _made(source: NetworkSource, device: str) -> tuple[Network, str]:
    """The network on its device, and the digest of its weights."""
    net = source.make()
    return _on(device, net), network_stamp(net)["weights"]


def _on(device: str, net: Network) -> Network:
    return net.to(device) if isinstance(net, nn.Module) else net


def worker_environments(workers: int | None, device: str) -> list[dict[str, str]]:
    """What sets the workers of one machine apart: on a GPU machine each sees a single GPU, its own."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers} answer nothing; give 1 or more")
    if not device.startswith("cuda"):
        return [{} for _ in range(workers or os.cpu_count() or 1)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = list(map(str, range(torch.cuda.device_count()))) if visible is None else visible.split(",")
    if not torch.cuda.is_available() or (workers or 0) > len(gpus):
        count = len(gpus) if torch.cuda.is_available() else 0
        raise ValueError(
            f"{workers or 'no'} workers on {count} GPUs: each has one of its own; try --device cpu or fewer"
        )
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:workers]]


def _processes(environments: list[dict[str, str]]) -> Any:
    """Workers on this machine, which nobody outside can reach; one that dies is started again."""
    from distributed import Nanny, Scheduler, SpecCluster

    def worker(environment: dict[str, str]) -> dict[str, Any]:
        # No memory limit: Dask's default would kill a task that the machine can well hold.
        options = {"nthreads": 1, "memory_limit": 0, "env": environment, **loopback}
        return {"cls": Nanny, "options": options}

    loopback = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": {**loopback, "port": 0}}
    return SpecCluster(workers={i: worker(one) for i, one in enumerate(environments)}, scheduler=scheduler)


def _jobs(workers: int, device: str, threads: int) -> Any:
    """SLURM jobs of one worker each."""
    import dask
    from dask_jobqueue import SLURMCluster

    extra = list(dask.config.get("jobqueue.slurm.job-extra-directives", None) or [])
    if device.startswith("cuda") and not any("gpu" in line for line in extra):
        extra.append("--gres=gpu:1")
    memory = dask.config.get("jobqueue.slurm.memory", None) or "8GB"
    cluster = SLURMCluster(
        cores=1,  # Dask's threads: one task at a time
        processes=1,
        job_cpu=threads,
        memory=memory,
        job_extra_directives=extra,
        scheduler_options={"dashboard_address": ":0"},
    )
    cluster.scale(workers)
    return cluster
