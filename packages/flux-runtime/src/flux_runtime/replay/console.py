"""Prints the result of a replay for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_episode(episode: Mapping[str, Any], console: Console) -> None:
    """Prints one episode: a line if it is identical, else what is different, joint by joint."""
    for line in episode_lines(episode):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not any(entry["value"] for entry in episode["largest_difference"]):
        return
    table = Table(title=Text("largest difference of the commands"))
    for name in ("joint", "difference", "tick", "time"):
        table.add_column(name, justify="left" if name == "joint" else "right")
    for entry in episode["largest_difference"]:
        when = (str(entry["tick"]), f"{entry['time_s']:.3f} s") if entry["value"] else ("-", "-")
        table.add_row(entry["joint"], f"{entry['value']:.3g}", *when)
    console.print(table)


def episode_lines(episode: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines above the table. Chunks may be different in rows that were not executed."""
    ticks = f"{episode['ticks']} ticks"
    name = f"{episode['file']} (seed {episode['seed']}, {episode['outcome']})"
    if episode["identical"]:
        yield f"{name}: {ticks}, identical bit for bit"
    else:
        yield f"{name}: {episode['different_ticks']} of {ticks} are different"
    for what, change in episode["made_with"].items():
        yield f"  not as recorded: {what}: {change}"
    flux = episode["flux"]
    if flux["recorded"] != flux["now"] and not episode["identical"]:
        yield f"  flux-runtime {flux['recorded']} recorded it, {flux['now']} replays it"
    if episode["other_decoder"]:
        names = ", ".join(episode["other_decoder"])
        yield f"  what turns actions into robot units is different: {names}"
    for name, chunk in episode["other_inputs"].items():
        yield f"  the network's input {name} is different from chunk {chunk} on"
    if episode["different_chunks"]:
        yield (
            f"  {episode['different_chunks']} of {episode['chunks']} chunks are different, from "
            f"chunk {episode['first_different_chunk']} on, by at most "
            f"{episode['largest_chunk_difference']:.3g}"
        )
    for chunk, text in episode["failures"].items():
        yield f"  chunk {chunk} cannot be inferred here: {text}"
    if episode["identical"]:
        return
    if (first := episode["first_difference"]) is not None:
        yield (
            f"  first difference: tick {first['tick']} ({first['time_s']:.3f} s): {first['what']}: "
            f"recorded {first['recorded']}, replayed {first['replayed']}"
        )
    if episode["events"] == "different":
        yield "  the control thread's events are different"
    elif episode["first_difference"] is None:
        yield "  the control thread's events have other figures"
