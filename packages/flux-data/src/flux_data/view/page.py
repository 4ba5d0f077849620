"""Lays out the page and writes it piece by piece, so that only one frame is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flux_core.errors import UsageError
from flux_core.html import (
    Document,
    Html,
    card,
    cell,
    data_block,
    definitions,
    element,
    error_line,
    figure,
    floats,
    header,
    key,
    line_block,
    row,
    section,
    table,
)

from ..lerobot.dataset import LeRobotDataset, open_lerobot
from ..whole_file import whole_file
from .figures import decimals, formatted_number, histogram_figure, short, stats_table
from .messages import message_section
from .pictures import PictureReader, cameras_of, check_videos, choose_episodes
from .survey import Advance, Survey, number_keys, read_numbers, read_survey

SMALLEST, LARGEST = 16, 2160
"""Heights of pictures, in pixels."""
EPISODE_COLUMNS = ("episode", "task", "frames", "seconds")


def write_view(
    root: str | Path,
    out: Path,
    *,
    episodes: str | None = None,
    height: int = 192,
    announce: Callable[[str], None] = lambda _: None,
    advance: Advance = lambda *_: None,
) -> dict[str, Any]:
    """Writes one HTML file that shows a dataset; a partly written one is never left at `out`.

    Args:
        root: the dataset.
        out: the file; an older one is replaced.
        episodes: which get pictures and curves: 'N-M', 'N' evenly spread, or None for a default.
        height: of the pictures, in pixels.
        announce: called with a line that says which episodes get pictures.
        advance: called with 'numbers' or 'pictures', how many are done, and how many there are.

    Returns:
        `out`, `bytes`, `episodes` (the indices with pictures), `num_episodes` and `num_pictures`.

    Raises:
        UsageError: `out`, `episodes` or `height` is not valid.
        DataError: the dataset, or a video of these episodes, is missing or damaged, or `out` cannot
            be written.
    """
    if not SMALLEST <= height <= LARGEST:
        raise UsageError(f"--size: expected {SMALLEST} to {LARGEST} pixels, got {height}")
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise UsageError(f"--out {out}: expected a file in a directory that exists")
    source = open_lerobot(root)
    positions = choose_episodes(source, episodes)
    check_videos(source, positions)
    indices = [int(source.episode_indices[position]) for position in positions]
    announce(
        f"{_shown_things(source)} of {len(indices)} of {source.num_episodes} episodes: "
        f"{_listed(indices)}"
    )
    survey = read_survey(source, advance)
    size = 0
    with whole_file(out) as file:
        for piece in _page(source, survey, positions, height, advance):
            size += file.write(piece.encode())
    return {
        "out": str(out),
        "bytes": size,
        "episodes": indices,
        "num_episodes": source.num_episodes,
        "num_pictures": int(source.lengths[positions].sum()) * len(cameras_of(source)),
    }


def _page(
    source: LeRobotDataset,
    survey: Survey,
    positions: Sequence[int],
    height: int,
    advance: Advance,
) -> Iterator[str]:
    title = source.root.resolve().name
    document = Document(title, "flux_data.view", style="view.css", scripts=("view.js",))
    return document.pieces(_body(title, source, survey, positions, height, advance))


def _body(
    title: str,
    source: LeRobotDataset,
    survey: Survey,
    positions: Sequence[int],
    height: int,
    advance: Advance,
) -> Iterator[Html]:
    yield _header(title, source)
    yield _tasks(survey)
    yield message_section(source, positions)
    yield error_line()
    yield element(
        "main", _episode_table(source, survey, set(positions)), _player(source), class_="bench"
    )
    yield _curves(source)
    yield _distributions(survey)
    yield data_block("page-data", _page_data(source, survey))
    yield from _episodes(source, positions, height, advance)


def _listed(indices: Sequence[int]) -> str:
    """'0, 2-4, 7'."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _shown_things(source: LeRobotDataset) -> str:
    return "pictures and curves" if cameras_of(source) else "curves"


def _header(title: str, source: LeRobotDataset) -> Html:
    seconds = source.num_frames / source.fps
    values = {
        "Episodes": f"{source.num_episodes:,}",
        "Frames": f"{source.num_frames:,}",
        "Hours": f"{seconds / 3600:.3g}",
        "Rate": f"{source.fps:g} fps",
        "Robot": str(source.info.get("robot_type") or "not stated"),
        "Cameras": len(cameras_of(source)),
        "LeRobot": str(source.info["codebase_version"]),
    }
    if source.depth_keys:
        values["Depth maps"] = f"{len(source.depth_keys)}, not shown"
    return header(title, definitions(values))


def _tasks(survey: Survey) -> Html:
    rows = (
        row(map(cell, (task.text, f"{task.num_episodes:,}", f"{task.num_frames:,}")))
        for task in survey.tasks
    )
    return section("Tasks", table(("task", "episodes", "frames"), rows, class_="card tasks"))


def _episode_table(source: LeRobotDataset, survey: Survey, shown: set[int]) -> Html:
    head = (element("button", name, type="button") for name in EPISODE_COLUMNS)
    rows = (
        _episode_row(source, position, "; ".join(tasks), position in shown)
        for position, tasks in enumerate(survey.episode_tasks)
    )
    listed = _listed([int(source.episode_indices[position]) for position in sorted(shown)])
    words = f"{len(shown)} of {source.num_episodes:,} with {_shown_things(source)}"
    beside = element("small", element("i", class_="dot"), words, title=listed)
    episodes = table(head, rows, id="episodes")
    return section("Episodes", episodes, beside=beside, class_="episodes")


def _episode_row(source: LeRobotDataset, position: int, tasks: str, is_shown: bool) -> Html:
    index, length = int(source.episode_indices[position]), int(source.lengths[position])
    cells = (
        cell(index),
        cell(tasks, title=tasks),
        cell(length),
        cell(f"{length / source.fps:.2f}"),
    )
    return row(cells, class_="shown" if is_shown else None, data_episode=index, tabindex=-1)


def _player(source: LeRobotDataset) -> Html:
    cameras = (
        element("figure", element("canvas"), element("figcaption", _camera(key)))
        for key in cameras_of(source)
    )
    position = element("output", id="position")
    content = card(
        element("div", *cameras, id="cameras"),
        element("p", id="absent", hidden=True),
        _controls(),
        element("p", position, _keyboard(), class_="muted row"),
    )
    heading = element("span", id="title")
    return section(heading, content, beside=element("small", id="task"), class_="player")


def _controls() -> Html:
    speeds = (
        element("option", f"{speed:g}×", value=f"{speed:g}", selected=speed == 1)
        for speed in (0.1, 0.25, 0.5, 1, 2, 4)
    )
    return element(
        "div",
        _button("back", "one frame back (left arrow)", _icon("M11 3 5 8l6 5z")),
        _button(
            "play",
            "play or pause (space)",
            _icon("M4 2.5v11l9.5-5.5z", "go"),
            _icon("M4 3h3v10H4zM9 3h3v10H9z", "halt"),
        ),
        _button("on", "one frame forward (right arrow)", _icon("M5 3v10l6-5z")),
        element("input", type="range", id="scrubber", min=0, max=0, value=0, aria_label="frame"),
        element("select", *speeds, id="speed", aria_label="speed"),
        id="controls",
    )


def _button(id: str, title: str, *icons: Html) -> Html:
    return element("button", *icons, type="button", id=id, title=title)


def _icon(path: str, name: str = "") -> Html:
    shape = element("path", d=path)
    return element(
        "svg", shape, class_=f"icon {name}".strip(), viewBox="0 0 16 16", aria_hidden="true"
    )


def _keyboard() -> Html:
    """What the keys do."""
    left, right, shift, space, previous, following = (
        element("kbd", name) for name in ("←", "→", "Shift", "Space", "P", "N")
    )
    words = (left, " ", right, " frame, with ", shift, " ten · ", space, " play · ")
    return element("span", *words, previous, " ", following, " episode", class_="keys")


def _camera(key: str) -> str:
    return key.removeprefix("observation.images.")


def _curves(source: LeRobotDataset) -> Html:
    keys = number_keys(source)
    if not keys:
        return Html()
    names = [short(name) for name in keys]
    legend = key(dict(zip(names, names, strict=True)), element("output", id="moment"))
    content = card(legend, element("div", class_="grid"))
    title, beside = " and ".join(names).capitalize(), element("small", id="curves-of")
    return section(title, content, beside=beside, id="curves")


def _distributions(survey: Survey) -> Html:
    if not survey.panels:
        return Html()
    figures = (_distribution(survey, position) for position in range(len(survey.panels)))
    names = [short(name) for name in survey.stats]
    words = "Height: square root of the count. Line below: q01 to q99, tick: mean."
    content = card(
        key(dict(zip(names, names, strict=True)), words),
        element("div", *figures, class_="grid wide"),
    )
    beside = element("small", "over all episodes")
    return section("Distributions", content, beside=beside)


def _distribution(survey: Survey, position: int) -> Html:
    panel, ends = survey.panels[position], survey.ranges[position]
    places = decimals(ends[1] - ends[0])
    numbers = (element("span", formatted_number(end, places)) for end in ends)
    return figure(
        panel.name,
        histogram_figure(survey, position),
        element("div", *numbers, class_="row ends"),
        stats_table(panel, survey, ends),
        class_="distribution",
    )


def _page_data(source: LeRobotDataset, survey: Survey) -> dict[str, Any]:
    panels = [
        {
            "name": panel.name,
            "dims": {short(key): dim for key, dim in panel.dims.items()},
            "span": ends[1] - ends[0],
        }
        for panel, ends in zip(survey.panels, survey.ranges, strict=True)
    ]
    return {"fps": source.fps, "cameras": len(cameras_of(source)), "panels": panels}


def _episodes(
    source: LeRobotDataset, positions: Sequence[int], height: int, advance: Advance
) -> Iterator[Html]:
    """Yields curves and pictures of each episode, as blocks that the script reads when asked."""
    reader = PictureReader(source, height)
    done, total = 0, int(source.lengths[list(positions)].sum())

    def lines(position: int) -> Iterator[str]:
        nonlocal done
        for pictures in reader.episode(position):
            yield " ".join(pictures)
            done += 1
            advance("pictures", done, total)

    for position in positions:
        index = int(source.episode_indices[position])
        numbers = {short(k): floats(v) for k, v in read_numbers(source, position).items()}
        yield data_block(f"episode-{index}", {"frames": int(source.lengths[position]), **numbers})
        yield from line_block(f"pictures-{index}", lines(position))
