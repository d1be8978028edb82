"""Chunks on the workers of Ray, which finds them machines and GPUs, and starts them again when they die."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pickle
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from hardprompts.batch.chunks import Chunk, ChunkResult, InverterSettings, Plan, failed_row, invert_chunk
from hardprompts.devices import available_cpus
from hardprompts.errors import HardPromptsError, MissingExtra

#: Deaths of workers over one chunk after which its records are searched one by one, to find whose fault it is.
TRUSTED_DEATHS = 2

#: Blocks of the plan, at most: Ray keeps an account of each. A worker that dies costs the work of one block.
MAX_BLOCKS = 10_000


def check_ray(opening: InverterSettings) -> None:
    """Raises if Ray's workers cannot do it.

    Raises:
        MissingExtra: Ray is not installed.
        ValueError: a model is open already.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise MissingExtra("workers", "ray", error) from error
    from hardprompts.encoders import Backend

    if any(isinstance(model, Backend) for model in (opening.model, opening.judge, opening.prior)):
        raise ValueError("workers open their models themselves: give a model's name, or a function that opens it")


def on_ray(
    plan: Plan,
    opening: InverterSettings,
    options: Mapping[str, Any],
    workers: int,
    gpus_per_worker: float | None = None,
    address: str | None = None,
) -> Generator[ChunkResult, None, None]:
    """The chunks of a plan as they are done, in any order.

    Raises:
        ValueError: Ray has fewer CPUs than the workers need.
        HardPromptsError: a worker cannot open the model, or the options are wrong.
    """
    import ray
    import ray.data

    pickled = [(chunk.number, pickle.dumps(chunk)) for chunk in plan]
    chunks = [{"number": number, "chunk": chunk} for number, chunk in pickled]
    if not chunks:
        return
    with _session(address, workers, opening.threads or 1, sum(len(chunk) for _, chunk in pickled)):
        cpus, gpus = (int(ray.cluster_resources().get(name, 0)) for name in ("CPU", "GPU"))
        threads = opening.threads or max(1, cpus // workers)
        if cpus < workers * threads:
            raise ValueError(
                f"Ray has {cpus} CPUs, and {workers} workers with {threads} threads each need {workers * threads}; use "
                "fewer workers or threads"
            )
        if gpus_per_worker is None:
            wanted = gpus > 0 and (opening.device is None or str(opening.device).startswith("cuda"))
            gpus_per_worker = min(1.0, gpus / workers) if wanted else 0.0
        work = ray.data.from_items(chunks, override_num_blocks=min(len(chunks), MAX_BLOCKS))
        attempts = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1).remote()
        # Ray sets OMP_NUM_THREADS to num_cpus. What is done comes back here and is written by one process, so that
        # machines need not share a disk for the output, and work that is done twice is written once.
        done = work.map(
            _Worker,
            fn_constructor_args=(dataclasses.replace(opening, threads=threads), dict(options), attempts),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=threads,
            num_gpus=gpus_per_worker or None,
        )
        for block in done.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for row in block.to_pylist():
                if row["failure"] is not None:
                    raise HardPromptsError(f"a worker cannot go on: {row['failure']}")
                yield ChunkResult(row["number"], json.loads(row["rows"]), row["started"], row["finished"])


class _Attempts:
    """How often each piece of work was begun: what was begun before, and not ended, has cost a worker its life."""

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}

    def begin(self, work: Any) -> int:
        self._counts[work] = self._counts.get(work, 0) + 1
        return self._counts[work]

    def end(self, work: Any) -> None:
        self._counts.pop(work, None)


class _Worker:
    """A process with a model of its own."""

    def __init__(self, opening: InverterSettings, options: Mapping[str, Any], attempts: Any) -> None:
        self._options, self._attempts = options, attempts
        self._failure: str | None = None
        try:
            self._inverter = opening.open()
        except Exception as error:  # noqa: BLE001  # whatever it is: the worker would be started for ever
            self._failure = f"{type(error).__name__}: {error}"

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        done = ChunkResult(row["number"], [], time.time(), time.time())
        failure = self._failure
        if failure is None:
            try:
                done = self._invert(pickle.loads(row["chunk"]))  # noqa: S301  # of our own making
            except (HardPromptsError, ValueError) as error:
                failure = f"{type(error).__name__}: {error}"
        return {
            "number": done.number, "rows": json.dumps(done.rows), "started": done.started, "finished": done.finished,
            "failure": failure,
        }  # fmt: skip

    def _invert(self, chunk: Chunk) -> ChunkResult:
        if self._begin(chunk.number) <= TRUSTED_DEATHS:
            done = invert_chunk(self._inverter, chunk, self._options)
        else:
            done = self._invert_one_by_one(chunk)
        self._end(chunk.number)
        return done

    def _invert_one_by_one(self, chunk: Chunk) -> ChunkResult:
        started = time.time()
        rows = []
        for record in chunk.records:
            work = (chunk.number, record.key)
            if self._begin(work) > 1:
                rows.append(failed_row(record.key, "its worker died each time that it was tried"))
            else:
                rows += invert_chunk(self._inverter, Chunk(chunk.number, (record,)), self._options).rows
                self._end(work)
        return ChunkResult(chunk.number, rows, started, time.time())

    def _begin(self, work: Any) -> int:
        import ray

        count: int = ray.get(self._attempts.begin.remote(work))
        return count

    def _end(self, work: Any) -> None:
        import ray

        ray.get(self._attempts.end.remote(work))


@contextlib.contextmanager
def _session(address: str | None, workers: int, threads: int, plan_bytes: int) -> Iterator[None]:
    """A connection to Ray: the one that there is, the one at an address, or one of our own for as long as it takes."""
    import ray
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False  # there is one already
    own = not ray.is_initialized()
    try:
        if own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
            if address is not None:
                ray.init(address, log_to_driver=False)
            else:
                ray.init(
                    "local",
                    num_cpus=max(workers * threads, available_cpus()),
                    object_store_memory=max(256 * 2**20, 2 ** math.ceil(math.log2(2 * plan_bytes + 1))),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        yield
    finally:
        context.enable_progress_bars = bars
        if own:
            ray.shutdown()
