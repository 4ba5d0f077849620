"""Lists the messages of a dataset's `language` columns: instructions, answers and subtasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flux_core.html import Html, cell, element, row, section, table

from ..lerobot.dataset import LeRobotDataset

COLUMNS = ("episode", "seconds", "column", "who", "message")
MAX_MESSAGES = 300
"""More would make the page slow; the line below the table says how many there are."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of an episode, and the first frame that has it."""

    episode: int
    time_s: float
    column: str
    who: str
    text: str


def message_section(source: LeRobotDataset, positions: Sequence[int]) -> Html:
    """Returns the section about the messages of some episodes; nothing if there are none."""
    found = [message for position in positions for message in messages(source, position)]
    if not found:
        return Html()
    rows = (
        row(map(cell, (m.episode, f"{m.time_s:.2f}", m.column, m.who, m.text)))
        for m in found[:MAX_MESSAGES]
    )
    left_out = len(found) - MAX_MESSAGES
    beside = element("small", f"{left_out:,} more are not shown") if left_out > 0 else Html()
    return section("Messages", table(COLUMNS, rows, class_="card tasks"), beside=beside)


def messages(source: LeRobotDataset, position: int) -> Iterator[Message]:
    """Yields an episode's messages, each at the first frame that has it."""
    features = source.info["features"]
    keys = [key for key, feature in features.items() if feature["dtype"] == "language"]
    if not keys:
        return
    columns = source.read_episode(position, ["timestamp", *keys])
    times_s = columns["timestamp"].ravel()
    for key in keys:
        seen: set[str] = set()
        for frame, entries in enumerate(columns[key]):
            for entry in entries if isinstance(entries, list) else ():
                if repr(entry) not in seen:
                    seen.add(repr(entry))
                    yield _message(source, position, float(times_s[frame]), key, entry)


def _message(
    source: LeRobotDataset, position: int, time_s: float, key: str, entry: object
) -> Message:
    told = entry if isinstance(entry, Mapping) else {"content": entry}
    who = ", ".join(str(told[name]) for name in ("role", "style") if told.get(name))
    return Message(
        episode=int(source.episode_indices[position]),
        time_s=time_s,
        column=key,
        who=who,
        text=str(told.get("content") or ""),
    )
