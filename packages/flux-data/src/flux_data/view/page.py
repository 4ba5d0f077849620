"""Lays out the page and writes it piece by piece, so that no more than a frame is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from flux_core.errors import UsageError
from flux_core.html.document import Document, data_block, definitions, floats

from ..lerobot.dataset import LeRobotDataset, open_lerobot
from ..whole_file import whole_file
from .figures import decimals, histogram_figure, number, short, stats_table
from .pictures import PictureReader, cameras_of, check_videos, choose_episodes
from .survey import Advance, Survey, number_keys, read_numbers, read_survey

SMALLEST, LARGEST = 16, 2160
"""Heights of pictures, in pixels."""


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
        episodes: which have pictures and curves: 'N-M', 'N' of them evenly spread, or None.
        height: of the pictures, in pixels.
        announce: called with a line that says which episodes get pictures.
        advance: called with 'numbers' or 'pictures', what is done of them, and all of them.

    Returns:
        `out`, `bytes`, `episodes` (the indices with pictures), `num_episodes` and `num_pictures`.

    Raises:
        UsageError: `out`, `episodes` or `height` make no sense.
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
    document = Document("flux_data.view", "view", "view")
    title = source.root.resolve().name
    yield document.head(title)
    yield _header(title, source)
    yield _tasks(survey)
    yield '<p id="error" class="bad" hidden></p><main class="bench">'
    yield from _episode_table(source, survey, set(positions))
    yield _player(source)
    yield "</main>"
    yield _curves(source)
    yield from _distributions(survey)
    yield data_block("page-data", _page_data(source, survey))
    yield from _episodes(source, positions, height, advance)
    yield document.end()


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


def _header(title: str, source: LeRobotDataset) -> str:
    seconds = source.num_frames / source.fps
    values = {
        "Episodes": f"{source.num_episodes:,}",
        "Frames": f"{source.num_frames:,}",
        "Hours": f"{seconds / 3600:.3g}",
        "Rate": f"{source.fps:g} fps",
        "Robot": source.info.get("robot_type") or "not told",
        "Cameras": len(cameras_of(source)),
        "LeRobot": source.info["codebase_version"],
    }
    return f"<header><h1>{escape(title)}</h1>{definitions(values)}</header>\n"


def _tasks(survey: Survey) -> str:
    rows = "".join(
        f"<tr><td>{escape(task.text)}</td><td>{task.num_episodes:,}</td>"
        f"<td>{task.num_frames:,}</td></tr>"
        for task in survey.tasks
    )
    return (
        '<h2>Tasks</h2><div class="card tasks scroll"><table><thead><tr><th>task</th>'
        f"<th>episodes</th><th>frames</th></tr></thead><tbody>{rows}</tbody></table></div>\n"
    )


def _episode_table(source: LeRobotDataset, survey: Survey, shown: set[int]) -> Iterator[str]:
    columns = ("episode", "task", "frames", "seconds")
    head = "".join(f'<th><button type="button">{column}</button></th>' for column in columns)
    listed = _listed([int(source.episode_indices[position]) for position in sorted(shown)])
    note = f"{len(shown)} of {source.num_episodes:,} with {_shown_things(source)}"
    yield (
        f'<section class="episodes"><h2>Episodes <small title="{listed}"><i class="dot"></i>{note}'
        "</small></h2>"
        f'<div class="card scroll"><table id="episodes"><thead><tr>{head}</tr></thead><tbody>'
    )
    for position, tasks in enumerate(survey.episode_tasks):
        index, length = int(source.episode_indices[position]), int(source.lengths[position])
        text = escape("; ".join(tasks), quote=True)
        kind = ' class="shown"' if position in shown else ""
        yield (
            f'<tr data-episode="{index}"{kind} tabindex="-1"><td>{index}</td>'
            f'<td title="{text}">{text}</td><td>{length}</td>'
            f"<td>{length / source.fps:.2f}</td></tr>\n"
        )
    yield "</tbody></table></div></section>\n"


def _player(source: LeRobotDataset) -> str:
    cameras = "".join(
        f"<figure><canvas></canvas><figcaption>{escape(_camera(key))}</figcaption></figure>"
        for key in cameras_of(source)
    )
    speeds = "".join(
        f'<option value="{speed:g}"{" selected" if speed == 1 else ""}>{speed:g}×</option>'
        for speed in (0.1, 0.25, 0.5, 1, 2, 4)
    )
    return (
        '<section class="player"><h2><span id="title"></span> <small id="task"></small></h2>'
        f'<div class="card"><div id="cameras">{cameras}</div><p id="absent" hidden></p>'
        '<div id="controls"><button type="button" id="back" title="one frame back (left arrow)">'
        f'{_icon("M11 3 5 8l6 5z")}</button><button type="button" id="play" '
        f'title="play or pause (space)">{_icon("M4 2.5v11l9.5-5.5z", "go")}'
        f"{_icon('M4 3h3v10H4zM9 3h3v10H9z', 'halt')}</button>"
        '<button type="button" id="on" title="one frame on (right arrow)">'
        f"{_icon('M5 3v10l6-5z')}</button>"
        '<input type="range" id="scrubber" min="0" max="0" value="0" aria-label="frame">'
        f'<select id="speed" aria-label="speed">{speeds}</select></div>'
        '<p class="muted row"><output id="position"></output><span class="keys">'
        "<kbd>←</kbd> <kbd>→</kbd> frame, with <kbd>Shift</kbd> ten · <kbd>Space</kbd> play · "
        "<kbd>P</kbd> <kbd>N</kbd> episode</span></p></div></section>\n"
    )


def _icon(path: str, name: str = "") -> str:
    return (
        f'<svg class="icon {name}" viewBox="0 0 16 16" aria-hidden="true"><path d="{path}"/></svg>'
    )


def _camera(key: str) -> str:
    return key.removeprefix("observation.images.")


def _key(keys: Sequence[str], note: str) -> str:
    entries = "".join(f'<span><i class="{short(key)}"></i>{short(key)}</span>' for key in keys)
    return f'<div class="key">{entries}<span class="note">{note}</span></div>'


def _curves(source: LeRobotDataset) -> str:
    keys = number_keys(source)
    if not keys:
        return ""
    names = " and ".join(short(key) for key in keys).capitalize()
    note = '<output id="moment"></output>'
    return (
        f'<section id="curves"><h2>{names} <small id="curves-of"></small></h2>'
        f'<div class="card">{_key(keys, note)}<div class="grid"></div></div></section>\n'
    )


def _distributions(survey: Survey) -> Iterator[str]:
    if not survey.panels:
        return
    note = "Height: square root of the count. Line below: q01 to q99, tick: mean."
    yield (
        "<section><h2>Distributions <small>over all episodes</small></h2>"
        f'<div class="card">{_key(tuple(survey.stats), note)}<div class="grid wide">'
    )
    for row, (panel, ends) in enumerate(zip(survey.panels, survey.ranges, strict=True)):
        places = decimals(ends[1] - ends[0])
        low, high = (number(end, places) for end in ends)
        yield (
            f'<figure class="distribution"><figcaption>{escape(panel.name)}</figcaption>'
            f'{histogram_figure(survey, row)}<div class="row ends"><span>{low}</span>'
            f"<span>{high}</span></div>{stats_table(panel, survey, ends)}</figure>\n"
        )
    yield "</div></div></section>\n"


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
) -> Iterator[str]:
    """Curves and pictures of each episode, as blocks of data that the script reads when asked."""
    reader = PictureReader(source, height)
    done, total = 0, int(source.lengths[list(positions)].sum())
    for position in positions:
        index = int(source.episode_indices[position])
        numbers = {short(k): floats(v) for k, v in read_numbers(source, position).items()}
        yield data_block(f"episode-{index}", {"frames": int(source.lengths[position]), **numbers})
        yield f'<script type="text/plain" id="pictures-{index}">'
        for frame, pictures in enumerate(reader.episode(position)):
            yield ("\n" if frame else "") + " ".join(pictures)
            done += 1
            advance("pictures", done, total)
        yield "</script>\n"
