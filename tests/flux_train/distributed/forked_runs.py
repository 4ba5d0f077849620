"""Runs flux-train many times while importing torch once: a run's processes are forks of this one.

    python forked_runs.py [MODULE ...]      with further modules that every run imports

Each line of JSON on stdin, {"argv": [...], "ranks": 2, "log": FILE}, starts a run. The answer on
stdout is a list with the exit code of each process. Their output goes to FILE.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys

# What every run needs, imported once.
import av  # noqa: F401
import PIL.Image
import torch
import torch._dynamo
import torch.distributed.fsdp

import flux_train.recipes
import flux_train.trainer
from flux_train.cli import main

for name in sys.argv[1:]:
    importlib.import_module(name)
PIL.Image.init()
torch.set_num_threads(1)
# Its picture takes longer than all steps of a run; other tests look at it.
flux_train.trainer.plot_loss = lambda metrics, path: None


def start(argv: list[str], log: str, environment: dict[str, str]) -> int:
    """Forks a process that runs flux-train; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    sys.exit(main(argv))


def rank_environment(ranks: int) -> list[dict[str, str]]:
    """The environment that torchrun gives each process; none for a single process."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    together |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": port}
    return [{"RANK": str(i), "LOCAL_RANK": str(i), **together} for i in range(ranks)]


for line in sys.stdin:
    request = json.loads(line)
    environments = rank_environment(request["ranks"])
    children = [start(request["argv"], request["log"], each) for each in environments]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(json.dumps(codes), flush=True)
