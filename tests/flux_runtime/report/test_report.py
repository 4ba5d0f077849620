"""The report: one file, complete, escaped, and a video that can be decoded."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_runtime.control.episode import EpisodeResult, run_episode
from flux_runtime.control.episode_log import Event, InferenceTimes, realtime_rows
from flux_runtime.control.latency import histogram_of
from flux_runtime.control.policy_source import HoldSource
from flux_runtime.control.trace import RealtimeTrace
from flux_runtime.report import ReportData, VideoRecorder, write_report
from flux_runtime.report.plots import joint_figure, latency_figure
from flux_runtime.report.video import H264Encoder, compose
from flux_runtime.run.episode_totals import collect_histograms, summarize

from ...browser import assert_nothing_is_loaded, open_browser, parse

pytest.importorskip("av", reason="reports need flux-runtime[report]")
pytest.importorskip("matplotlib", reason="reports need flux-runtime[report]")


def episode(
    fakes: Any, seed: int, *, filmed: bool = False, **robot: int
) -> tuple[EpisodeResult, bytes | None]:
    toy = fakes.ToyRobot(**robot)
    video = VideoRecorder(toy, control_hz=50.0) if filmed else None
    result = run_episode(
        robot=toy,
        source=HoldSource(toy.spec),
        loop=fakes.FakeLoop(),
        prompt="wave",
        seed=seed,
        max_steps=40,
        on_tick=video.on_tick if video else lambda step: None,
    )
    return result, video.finish() if video else None


def write(fakes: Any, path: Path, **changes: Any) -> str:
    first, video = episode(fakes, 1, filmed=True)
    second, _ = episode(fakes, 2, transferred_at=999)
    results = changes.get("results", [first, second])
    histograms = collect_histograms(results, {"encode": histogram_of([0.5, 0.7, 2.0])})
    summary = summarize(results, histograms) | {
        "robot": "toy",
        "policy": "hold",
        "engine": "none",
        "mode": "sync",
        "mode_reason": "--mode",
        "rtc": None,
        "clock": "simulated",
        "command_hz": 50.0,
        "speed": 1.0,
        "bundle": "bundles/<toy>",
        "prompt": "wave <script>alert(1)</script>",
        "golden_max_abs_error": 1e-7,
        **changes.get("facts", {}),
    }
    data = ReportData(
        spec=fakes.toy_spec(),
        summary=summary,
        results=results,
        videos=[video, None][: len(results)],
        num_plotted=1,
        histograms=histograms,
        manifest=changes.get("manifest"),
    )
    write_report(path, data)
    return path.read_text(encoding="utf-8")


def realtime_episode(fakes: Any) -> EpisodeResult:
    """An episode in real time with a gap, events and sensors of different ages."""
    trace = RealtimeTrace(control_hz=50.0)
    rows = np.zeros(40, realtime_rows(3, 3, 2))
    rows["timestamp_s"] = np.arange(40) * 0.02 + 0.001
    rows["timestamp_s"][25:] += 0.1
    trace.add_rows(rows[:20])
    trace.add_rows(rows[20:])
    trace.add_event(Event(time_s=0.3, name="frame_stale", subject="cam_<a>", value=0.31, limit=0.2))
    trace.add_event(Event(time_s=0.5, name="driver_failed", text="bus <busy>"))
    for index in range(3):
        ages = {"cam_a": 0.03 * index, "cam_b": math.nan}
        trace.add_inference(
            InferenceTimes(
                time_s=0.2 * index, duration_s=0.05, state_age_s=0.004, frame_ages_s=ages
            )
        )
    result, _ = episode(fakes, 3)
    return replace(
        result,
        success=None,
        strict_success=None,
        stages={},
        trace=trace.trace(),
        timing=trace.timing(),
        events=trace.events,
        outcome="failed",
        stopped_by="driver_failed",
        reason="bus <busy>",
    )


class Tags(HTMLParser):
    """Collects what a browser would fetch, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "br", "path", "use", "image", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        depth = len(self.open)
        self.handle_starttag(tag, attributes)
        del self.open[depth:]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_names_the_rate_of_commands_and_the_speed_if_they_were_chosen(
    fakes: Any, tmp_path: Path
) -> None:
    assert "commands per second" not in write(fakes, tmp_path / "plain.html")
    page = write(fakes, tmp_path / "page.html", facts={"command_hz": 200.0, "speed": 0.5})
    assert "200 commands per second · speed 0.5" in page


def test_the_page_is_whole_and_needs_nothing_else(fakes: Any, tmp_path: Path) -> None:
    page = write(fakes, tmp_path / "run.html", manifest=fakes.toy_manifest())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.names
    assert all(address.startswith(("data:video/mp4", "#")) for address in tags.addresses)
    assert len(tags.ids) == len(set(tags.ids))
    assert not re.search(r"url\((?!#)", page)
    assert list(tmp_path.iterdir()) == [tmp_path / "run.html"]


def test_nothing_is_loaded_and_figures_carry_no_styles(fakes: Any, tmp_path: Path) -> None:
    page = write(fakes, tmp_path / "run.html", manifest=fakes.toy_manifest())
    assert_nothing_is_loaded(tmp_path / "run.html")
    assert "http" not in page.replace("http-equiv", "")
    assert not parse(tmp_path / "run.html").one("body").all("style")


def test_hostile_names_stay_text(fakes: Any, tmp_path: Path) -> None:
    write(fakes, tmp_path / "run.html", manifest=fakes.toy_manifest())
    page = parse(tmp_path / "run.html")
    assert page.one("title").text == "toy: wave <script>alert(1)</script>"
    assert page.one("h1").text == "wave <script>alert(1)</script>"
    assert page.one("video").attributes["src"].startswith("data:video/mp4;base64,")
    assert not page.all("script")


def test_a_browser_shows_figures_and_plays_the_video(fakes: Any, tmp_path: Path) -> None:
    write(fakes, tmp_path / "run.html", manifest=fakes.toy_manifest())
    program = """
      const video = document.querySelector("video");
      if (!video.canPlayType('video/mp4; codecs="avc1.64001f"')) return null;
      await until(() => video.error || video.readyState >= 2);
      const line = document.querySelector('.figures path[stroke="var(--action)"]');
      const color = getComputedStyle(line).stroke;
      const text = document.querySelector(".figures text");
      return { error: video.error?.message ?? "", width: video.videoWidth, color,
        font: getComputedStyle(text).fontSize, visible: line.getBoundingClientRect().width > 99 };
    """
    (tmp_path / "profile").mkdir()
    with open_browser(tmp_path / "profile") as browser:
        light = browser.run(tmp_path / "run.html", program)
        dark = browser.run(tmp_path / "run.html", program, dark=True)
    if light is None:
        pytest.skip("needs a browser that plays H.264")
    assert light == {
        "error": "",
        "width": 192,
        "color": "rgb(23, 105, 194)",
        "font": "9px",
        "visible": True,
    }
    assert dark == light | {"color": "rgb(108, 176, 245)"}


def test_the_page_says_what_happened(fakes: Any, tmp_path: Path) -> None:
    page = write(fakes, tmp_path / "run.html", manifest=fakes.toy_manifest())
    assert "50%" in page
    assert "1 of 2 episodes, 95% interval 9% to 91%" in page
    assert "wave &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "bundles/&lt;toy&gt;" in page
    assert "6 predicted, 4 executed" in page
    assert "<h3>Left arm</h3>" not in page  # the toy has one arm only
    assert "latency of encode" in page
    assert page.count("<video") == 1


def test_a_run_in_real_time_shows_gaps_events_and_the_ages_of_its_sensors(
    fakes: Any, tmp_path: Path
) -> None:
    result = realtime_episode(fakes)
    velocities = {"a": {"value": 5.0, "source": "the driver"}}
    velocities |= {"b": {"value": 2.5, "source": "--max-velocity"}}
    facts = {
        "outcome": "failed",
        "stopped_by": "driver_failed",
        "reason": "bus <busy>",
        "limits": {"holds_without_power": False, "max_velocity": velocities},
        "scheduling": {"priority": {"asked": 50, "got": 0, "error": "not <permitted>"}},
        "staleness": {"state": 0.06, "frame": 0.2},
    }
    write(fakes, tmp_path / "run.html", results=[result], facts=facts)
    page = parse(tmp_path / "run.html")
    names = [svg.attributes.get("aria-label", "") for svg in page.all("svg")]
    assert "intervals between commands, seed 3" in names
    assert "events, seed 3" in names
    assert [name for name in names if name.startswith("age of")] == [
        "age of state, seed 3",
        "age of cam_a, seed 3",
        "age of cam_b, seed 3",
    ]
    text = page.text
    assert "This run ended early: failed by driver_failed." in text
    assert "bus <busy>" in text
    assert "Longest interval120.00 ms" in text
    assert "Gaps1" in text
    assert "asked for 50, got 0 (not <permitted>)" in text
    assert "the driver (a); --max-velocity (b)" in text


def test_without_a_bundle_the_page_says_so(fakes: Any, tmp_path: Path) -> None:
    assert "No bundle was used." in write(fakes, tmp_path / "run.html")


def test_the_video_is_h264_that_browsers_play(fakes: Any, tmp_path: Path) -> None:
    import av

    page = write(fakes, tmp_path / "run.html")
    found = re.search(r"data:video/mp4;base64,([^\"]+)", page)
    assert found
    with av.open(io.BytesIO(base64.b64decode(found[1]))) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 25
    assert len(frames) == 29 // 2
    assert frames[0].shape == (96, 192, 3)
    assert abs(int(frames[0][10, 10, 0]) - 30) < 6  # after two ticks the toy's pictures are 30


def test_an_encoder_without_pictures_gives_no_file() -> None:
    assert H264Encoder(Fraction(25)).finish() == b""


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_cameras_makes_an_even_picture(count: int) -> None:
    image = np.full((9, 11, 3), 200, np.uint8)
    height, width, _ = compose([image] * count).shape
    assert (height % 2, width % 2) == (0, 0)


def test_a_joint_that_never_moves_or_is_not_finite_can_be_drawn() -> None:
    flat = np.zeros(5, np.float32)
    seconds, starts = np.arange(5) / 50, np.zeros(1)
    figure: dict[str, Any] = {"chunk_starts_s": starts, "limits": (-1.0, 1.0), "label": "a & b"}
    whole = figure | {"seconds": seconds}
    assert 'aria-label="a &amp; b"' in joint_figure(commands=flat, states=flat, **whole)
    assert "<svg" in joint_figure(commands=flat * np.nan, states=flat * np.nan, **whole)
    assert "<svg" in joint_figure(commands=flat[:1], states=flat[:1], seconds=seconds[:1], **figure)


def test_figures_take_their_colours_from_the_page() -> None:
    svg = latency_figure(histogram_of([1.0, 2.0, 200.0]), "x")
    assert "var(--action)" in svg
    assert "#0102" not in svg
    assert not re.search(r'<svg[^>]* width="', svg)


def test_a_histogram_of_many_narrow_bins_is_drawn_with_few_bars() -> None:
    edges = np.geomspace(1e-4, 1e5, 433)
    edges[0] = 0.0
    histogram = histogram_of([1.0]) | {"counts": [1] * 432, "edges_ms": edges.tolist()}
    assert latency_figure(histogram, "x").count("clip-path") < 60  # type: ignore[arg-type]
