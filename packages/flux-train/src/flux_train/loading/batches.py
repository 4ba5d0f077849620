"""Makes the batches of the training loop, and names the sample when one cannot be made."""

from __future__ import annotations

import functools
import itertools
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from flux_core.errors import DataError, FluxError
from flux_data.samples import (
    DatasetPart,
    DistributedRepeatingDataset,
    EpochBatches,
    batches_ahead,
    make_samples,
)

from ..config.tree import TrainDataloader
from ..distributed.ranks import Ranks

GRACE_S = 10.0
"""How long to wait for a batch before checking that its worker is alive; torch checks after 5."""

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


class LostDataError(DataError):
    """A step has no data in this process; the steps trained so far can be saved."""


class PeerLostDataError(LostDataError):
    """A step has no data in another process, which reports why."""


def shared_reason(error: LostDataError, ranks: Ranks, device: torch.device) -> str:
    """Shares why a step has no data; called by all processes. Returns the first reason.

    Processes that have data wait for this one in the first sum of the step. They get NaN there,
    raise PeerLostDataError and then call this too.
    """
    is_peer = isinstance(error, PeerLostDataError)
    if not is_peer:
        ranks.sum(torch.full((), torch.nan, device=device))
    reasons = ranks.gathered(None if is_peer else str(error))
    return next(str(reason) for reason in reasons if reason is not None)


def batches_left(
    settings: TrainDataloader,
    dataset: DistributedRepeatingDataset,
    batches: EpochBatches,
    collate: Collate,
) -> Iterator[dict[str, Any]]:
    """The remaining batches of an epoch, made by threads, by processes or on demand.

    Raises:
        DataError: a sample cannot be made, or a worker process has died.
    """
    samples, workers = NamedSamples(dataset), settings.per_device_num_workers
    if workers and settings.worker_type == "thread":
        return batches_ahead(samples, batches, collate, workers)
    if not workers:
        return (collate(samples.__getitems__(draws)) for draws in batches)
    return _from_processes(samples, batches, collate, workers)


class NamedSamples:
    """A dataset whose errors name the sample they are about."""

    def __init__(self, dataset: DistributedRepeatingDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        try:
            return self.dataset[draw]
        except FluxError as error:
            raise DataError(f"{sample_name(self.dataset, draw)}: {error}") from error

    def __getitems__(self, draws: Sequence[int]) -> list[dict[str, Any]]:
        return make_samples(self.__getitem__, draws)


def sample_name(dataset: DistributedRepeatingDataset, draw: int) -> str:
    """'sample 12 (episode 3, frame 40 of recordings)', or less if its data cannot be read."""
    index = draw % len(dataset)
    part, within = _locate(dataset, index)
    root = part.source.root.name
    try:
        raw = part.sample(within)
    except FluxError:
        return f"sample {index} (of {root})"
    return f"sample {index} (episode {raw.episode_index}, frame {raw.frame} of {root})"


def _locate(dataset: DistributedRepeatingDataset, index: int) -> tuple[DatasetPart, int]:
    """The part of the dataset that holds a sample, and the sample's index in that part."""
    for part in itertools.chain.from_iterable(member.parts for member in dataset.datasets):
        if index < len(part):
            return part, index
        index -= len(part)
    raise IndexError(f"sample {index} is after the last one")


class _ErrorsAsValues:
    """Returns errors as values: torch would turn a raised one into a long traceback."""

    def __init__(self, samples: NamedSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitems__(self, draws: Sequence[int]) -> list[dict[str, Any]] | FluxError:
        try:
            return self._samples.__getitems__(draws)
        except FluxError as error:
            return error


def _collated(
    collate: Collate, samples: list[dict[str, Any]] | FluxError
) -> dict[str, Any] | FluxError:
    if isinstance(samples, FluxError):
        return samples
    try:
        return collate(samples)
    except FluxError as error:
        return error


def _from_processes(
    samples: NamedSamples, batches: EpochBatches, collate: Collate, workers: int
) -> Iterator[dict[str, Any]]:
    loader = DataLoader(
        _ErrorsAsValues(samples),  # type: ignore[arg-type]  # torch asks it for whole batches
        batch_sampler=batches,
        collate_fn=functools.partial(_collated, collate),
        num_workers=workers,
        worker_init_fn=_one_thread,
        prefetch_factor=4,
    )
    others = active_children()
    found = _without_interruption(loader)
    processes = [process for process in active_children() if process not in others]
    for draws in batches:
        try:
            batch = _next_or_death(found, processes)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"{reason}; the batch it was needed for begins with "
                f"{sample_name(samples.dataset, draws[0])}. Did memory run out? Lower "
                "train_dataloader.per_device_num_workers, or use worker_type='thread'"
            ) from error
        if isinstance(batch, FluxError):
            raise batch
        yield batch


def _without_interruption(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; a worker's death raises only when its batch is requested.

    Left to itself, torch interrupts whatever is running, such as half of an optimiser step.
    """
    before = signal.getsignal(signal.SIGCHLD)
    found = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return found


def _next_or_death(found: Iterator[Any], processes: Sequence[BaseProcess]) -> Any:
    """The next batch, requested in a thread of its own, which is abandoned if the worker is dead.

    torch checks for dead workers only while nothing arrives. If a worker died in the middle of a
    message, it would wait for the rest forever.

    Raises:
        RuntimeError: a worker has died.
    """
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put((next(found), None))
        except BaseException as error:  # noqa: BLE001  # raised by the thread that waits
            answers.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    while True:
        try:
            batch, error = answers.get(timeout=GRACE_S)
        except Empty:
            for process in processes:
                if process.exitcode:
                    raise RuntimeError(
                        f"DataLoader worker (pid {process.pid}) exited with {process.exitcode}, "
                        "in the middle of a batch"
                    ) from None
        else:
            if error is not None:
                raise error
            return batch


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    np.random.seed(worker)
