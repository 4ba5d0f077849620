"""Compiles the kernels ahead of time, without a card and without torch."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from flux_core.errors import FluxError, MissingDependencyError

from ..architectures import Architecture
from .file import read_cubin
from .kernel_sources import KERNELS, kernel_sources, kernels_sha256
from .specialisation import Specialisation
from .store import Cubin, Store, check_content, store_name, write_whole

Advance = Callable[[str, int, int], None]
"""Called with what was compiled last, and how many of how many are done."""

_TRITON = "triton"
_SETTINGS = re.compile("TRITON_|PTXAS_OPTIONS|DISABLE_PTXAS_OPT|NVPTX_|LLVM_|MLIR_|USE_IR_LOC")
"""Variables that change what Triton compiles."""

_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Built:
    """What was built for one architecture.

    Attributes:
        store: with everything that was wanted, among what it held before.
        wanted: the keys, in the order in which they were asked for.
        seconds: of CPU time per key that was compiled; the others were there.
    """

    store: Store
    wanted: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """The size of the wanted machine code."""
        return sum(self.store.cubins[key].path.stat().st_size for key in self.wanted)


def triton_version() -> str:
    """Returns the version of Triton that is installed.

    Raises:
        MissingDependencyError: there is none.
    """
    try:
        return version(_TRITON)
    except PackageNotFoundError as error:
        raise MissingDependencyError(
            "triton: not installed. Install it with: pip install 'flux-runtime[build]'"
        ) from error


def build(
    wanted: Sequence[tuple[Architecture, Sequence[Specialisation]]],
    out: Path,
    advance: Advance = lambda *_: None,
    *,
    package: str = KERNELS,
    num_processes: int | None = None,
) -> tuple[Built, ...]:
    """Compiles what the stores in `out` lack, and returns one result for each architecture.

    Everything that was compiled stays if a later kernel fails or the command is interrupted.

    Args:
        wanted: what to compile for which cards.
        out: where the stores are, one folder each.
        advance: told after each kernel.
        package: of the kernels.
        num_processes: that compile at the same time (default: one per processor).

    Raises:
        MissingDependencyError: Triton is not installed.
        FluxError: a kernel cannot be compiled or is too large for its cards.
    """
    triton = triton_version()
    results = [_open_or_begin(out, target, triton, kernels, package) for target, kernels in wanted]
    jobs = [
        (number, target, one)
        for number, (target, kernels) in enumerate(wanted)
        for one in kernels
        if one.key not in results[number].store.cubins
    ]
    processes = min(num_processes or os.cpu_count() or 1, len(jobs))
    if not jobs:
        return tuple(results)
    with _compilers(processes) as run, ThreadPoolExecutor(processes) as pool:
        answers = pool.map(lambda job: run(_job(job[2], job[1], package)), jobs)
        try:
            for done, ((number, target, one), answer) in enumerate(zip(jobs, answers, strict=True)):
                results[number] = _add(results[number], one, target, answer)
                advance(f"{one.kernel} for {target.name}", done + 1, len(jobs))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return tuple(results)


def _open_or_begin(
    out: Path, target: Architecture, triton: str, wanted: Sequence[Specialisation], package: str
) -> Built:
    sources = kernels_sha256(package)
    folder = out / store_name(target.name, sources, triton)
    keys = tuple(one.key for one in wanted)
    kept: dict[str, Cubin] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tables = {one.key: one.parameter_table for one in wanted}
        for key, cubin in Store.open(folder).cubins.items():
            table = tables.get(key, cubin.parameters)
            if not check_content(cubin.read(), cubin, table, target):
                kept[key] = cubin
    except MissingDependencyError:
        pass  # There is no index yet, or something is damaged: it is compiled again.
    except OSError as error:
        raise FluxError(
            f"{folder}: cannot be created ({error.strerror}). Choose another --out, or set "
            f"XDG_CACHE_HOME"
        ) from error
    store = Store(
        folder=folder, arch=target.name, kernels_sha256=sources, triton=triton, cubins=kept
    )
    return Built(store=store, wanted=keys)


def _job(wanted: Specialisation, target: Architecture, package: str) -> dict[str, Any]:
    source = kernel_sources(package)[wanted.kernel]
    parameters = dict(zip(source.parameters, wanted.parameters, strict=True))
    return {
        "module": source.module,
        "kernel": wanted.kernel,
        "capability": target.capability,
        "types": {name: one.type for name, one in parameters.items()},
        "aligned": [name for name, one in parameters.items() if one.is_aligned],
        "constants": dict(wanted.constants),
        "num_warps": wanted.num_warps,
        "num_stages": wanted.num_stages,
    }


def _add(
    built: Built, wanted: Specialisation, target: Architecture, answer: Mapping[str, Any]
) -> Built:
    """Checks machine code and adds it to its store."""
    where = f"kernel {wanted.kernel} for {target.name}"
    if "error" in answer:
        raise FluxError(f"{where}: cannot be compiled ({answer['error']}): {wanted.key}")
    content = base64.b64decode(answer["cubin"])
    try:
        registers = read_cubin(content).registers
    except ValueError as error:
        raise FluxError(f"{where}: {error}: {wanted.key}") from error
    digest = hashlib.sha256(wanted.key.encode()).hexdigest()[:_DIGITS]
    path = built.store.folder / f"{wanted.kernel}_{digest}.cubin"
    cubin = Cubin(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        symbol=answer["symbol"],
        shared_bytes=answer["shared_bytes"],
        num_warps=answer["num_warps"],
        parameters=wanted.parameter_table,
        registers=registers,
        spill_bytes=answer["spill_bytes"],
    )
    wrong = check_content(content, cubin, wanted.parameter_table, target)
    if wrong:
        raise FluxError(f"{where}: {wrong}: {wanted.key}")
    store = replace(built.store, cubins={**built.store.cubins, wanted.key: cubin})
    try:
        write_whole(path, content)
        store.write_index()
    except OSError as error:
        raise FluxError(f"{path}: cannot be written ({error.strerror})") from error
    return replace(
        built, store=store, seconds={**built.seconds, wanted.key: float(answer["seconds"])}
    )


@contextmanager
def _compilers(count: int) -> Iterator[Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """Starts processes that compile, and yields a function that gives a job to an idle one.

    The function may be called by as many threads at a time.
    """
    with ExitStack() as resources:
        cache = resources.enter_context(tempfile.TemporaryDirectory(prefix="flux-build-"))
        kept = {name: value for name, value in os.environ.items() if not _SETTINGS.match(name)}
        settings = {
            "TRITON_CACHE_DIR": cache,
            "TRITON_STORE_BINARY_ONLY": "1",
            "TRITON_DUMP_PTXAS_LOG": "1",  # for the spills
            "TRITON_DISABLE_LINE_INFO": "1",  # the same machine code wherever the sources are
        }
        idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for _ in range(count):
            idle.put(resources.enter_context(_compiler(kept | settings)))

        def run(job: Mapping[str, Any]) -> dict[str, Any]:
            process = idle.get()
            try:
                return _ask(process, job)
            finally:
                idle.put(process)

        yield run


@contextmanager
def _compiler(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", f"{__package__}.compile_worker"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _ask(process: subprocess.Popen[str], job: Mapping[str, Any]) -> Any:
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        code = process.wait()
        return {"error": f"the compiler's process ended with {code}"}
    return json.loads(answer)
