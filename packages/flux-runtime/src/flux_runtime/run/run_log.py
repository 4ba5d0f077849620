"""What a run keeps of its episodes: for its report, and on disk. Its memory has a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from flux_core.errors import DataError

from ..control.episode import EpisodeResult, how_it_ended
from ..control.episode_log import EpisodeLogs
from ..control.latency import Histogram, merge_stages
from ..control.realtime_episode import OPERATOR, drive_realtime
from ..control.realtime_session import RealtimeSession
from ..control.session import RunOptions, Session, drive
from ..control.trace import EpisodeTrace, FirstEvents
from ..operator import OperatorStation
from ..predictions import Comparison, RecordedSource
from ..recording import DatasetRecorder
from ..report import ReportData, VideoRecorder, write_report
from .episode_totals import stages_of, summarize, with_rtc_totals
from .recording import EpisodeRecording, Recorder
from .replay_header import replay_header

NOTHING_RUN = "quit by the operator before the first episode"


class RunLog:
    """Runs the episodes of a session, and keeps what its report needs.

    Attributes:
        options: of the run.
        dataset: records the episodes as a dataset; None if that is not wanted.
        results: of the episodes, also of one that ended early. Only those that the report draws
            keep their ticks.
    """

    def __init__(self, options: RunOptions) -> None:
        self.dataset: DatasetRecorder | None = None
        self.results: list[EpisodeResult] = []
        self.options = options
        self._session: Session | RealtimeSession | None = None
        self._videos: list[bytes | None] = []
        self._histograms: dict[str, Histogram] = {}
        self._first_events = FirstEvents()
        self._events: list[dict[str, object]] = []
        self._recorder: Recorder | None = None
        self._dropped: Counter[str] = Counter()
        self._is_cut_off = False

    def run_episodes(
        self,
        session: Session | RealtimeSession,
        on_episode: Callable[[EpisodeResult], None],
        station: OperatorStation | None = None,
    ) -> None:
        """Runs the episodes; see `run`. The operator at `station` begins each of them."""
        self._session = session
        if self.options.record is not None:
            self._recorder = Recorder(self.options.record, session.spec)
        if station is None or not isinstance(session, RealtimeSession):
            for index in range(session.options.episodes):
                on_episode(self._run_one(session, index))
            return
        if session.options.realtime_options.prepare:
            station.prepare_first(session)
        for index in range(session.options.episodes):
            chosen = station.choose(session, index + 1)
            if chosen is None:
                return
            session = chosen
            on_episode(self._run_one(session, index, station))
        station.finish(session)

    def report(self, error: BaseException | None = None) -> dict[str, object]:
        """Returns the JSON report; `report` is the page that `write_page` is about to write.

        Args:
            error: what ended the run early; None if it ended as planned.
        """
        assert self._session is not None
        report = self._session.describe() | summarize(self.results, self._all_histograms())
        report = with_rtc_totals(report, self.results)
        report |= self._ending(error) | {"events": self._events} | self._recording_facts()
        if self._comparison is not None:
            report["predicted_against_recorded"] = self._comparison.as_data()
        if self.options.report is not None:
            report["report"] = str(self.options.report)
        return report

    def write_page(self, report: Mapping[str, object]) -> None:
        """Writes the page of a JSON report if one is wanted.

        Raises:
            DataError: it cannot be written, for example because the disk is full.
        """
        if self.options.report is None or not self.results:
            return
        assert self._session is not None
        bundle = self._session.bundle
        data = ReportData(
            spec=self._session.spec,
            summary=report,
            results=self.results,
            videos=self._videos,
            num_plotted=self.options.video_episodes,
            histograms=self._all_histograms(),
            manifest=bundle.manifest if bundle else None,
            comparison=self._comparison,
        )
        try:
            write_report(self.options.report, data)
        except DataError as error:
            kept = f", and its recording is in {self.options.record}" if self.options.record else ""
            raise DataError(f"{error} The result of the run is printed{kept}.") from error

    @property
    def _comparison(self) -> Comparison | None:
        """Of predicted chunks with recorded actions, if recordings are played."""
        source = self._session.source if self._session else None
        return source.comparison if isinstance(source, RecordedSource) else None

    def _recording_facts(self) -> dict[str, object]:
        facts: dict[str, object] = {}
        if self.dataset is not None:
            facts["dataset_recording"] = self.dataset.report()
        if self.options.record is None:
            return facts
        outcome = "incomplete" if self._dropped or self._is_cut_off else "complete"
        return facts | {"recording": outcome, "recording_dropped": dict(self._dropped)}

    def _all_histograms(self) -> dict[str, Histogram]:
        assert self._session is not None
        return merge_stages([self._histograms]) | self._session.times.histograms()

    def _run_one(
        self,
        session: Session | RealtimeSession,
        index: int,
        station: OperatorStation | None = None,
    ) -> EpisodeResult:
        """Runs episode `index`; records it, and films it if the report will show it."""
        seed = self.options.seed + index
        dataset = self.dataset
        episode = dataset.begin(session.prompt) if dataset is not None else None
        recording = self._begin_recording(session, seed)
        video = self._video(session, index)

        ended: list[EpisodeResult] = []

        def on_end(result: EpisodeResult) -> None:
            judged = result
            try:
                if station is not None and isinstance(session, RealtimeSession):
                    judged = station.judged(session, result)
            finally:  # It is kept without a judgement if a signal comes first.
                keep(judged)

        def keep(result: EpisodeResult) -> None:
            ended.append(result)
            if dataset is not None:
                dataset.finish(result)
            self._keep(result, video.finish() if video else None)
            if recording is not None:
                try:
                    recording.finish(result)
                except DataError:
                    self._is_cut_off = True
                    raise
                finally:
                    self._dropped.update(recording.replay.dropped if recording.replay else {})

        def on_tick(step: int) -> None:
            if video is not None:
                video.on_tick(step)
            if dataset is not None:
                dataset.tell_of_failure()

        logs = [log for log in (recording, episode) if log is not None]
        log = EpisodeLogs(*logs) if logs else None
        replay_log = recording.replay if recording is not None else None
        if isinstance(session, RealtimeSession):
            drive_realtime(
                session,
                seed,
                on_tick=on_tick,
                log=log,
                replay_log=replay_log,
                on_end=on_end,
                operator=station,
                begins_slowly=index == 0,
            )
            return ended[-1]
        return drive(
            session,
            seed,
            on_tick=on_tick,
            log=log,
            replay_log=replay_log,
            before_tick=episode.look if episode is not None else lambda: None,
            on_end=on_end,
        )

    def _begin_recording(
        self, session: Session | RealtimeSession, seed: int
    ) -> EpisodeRecording | None:
        if self._recorder is None:
            return None
        return self._recorder.begin(
            prompt=session.prompt,
            seed=seed,
            is_realtime=isinstance(session, RealtimeSession),
            cameras=session.source.cameras,
            command_hz=session.command_hz,
            replay_header=replay_header(session, seed),
        )

    def _video(self, session: Session | RealtimeSession, index: int) -> VideoRecorder | None:
        is_shown = self.options.report and index < self.options.video_episodes
        if is_shown and session.spec.cameras and isinstance(session, Session):
            return VideoRecorder(session.robot, control_hz=session.spec.control_hz)
        return None

    def _keep(self, result: EpisodeResult, video: bytes | None) -> None:
        """Adds to the totals, and keeps the ticks only if the report draws them."""
        self._histograms = merge_stages([self._histograms, stages_of(result)])
        kept = [event for event in result.events if self._first_events.add(event)]
        self._events += [{"seed": result.seed} | event.as_data() for event in kept]
        if len(self.results) >= self.options.video_episodes:
            result = replace(result, trace=EpisodeTrace(), events=())
            if result.timing is not None:
                result = replace(result, timing=result.timing.without_series())
        self.results.append(replace(result, stats={**result.stats, "histograms": {}}))
        self._videos.append(video)

    def _ending(self, error: BaseException | None) -> dict[str, object]:
        if not self.results:
            return {"outcome": "interrupted", "stopped_by": OPERATOR, "reason": NOTHING_RUN}
        last = self.results[-1]
        outcome, stopped_by, reason = last.outcome, last.stopped_by, last.reason
        if outcome == "finished":  # between two episodes, or when the robot was closed
            outcome, stopped_by, reason = how_it_ended(error)
        return {"outcome": outcome, "stopped_by": stopped_by, "reason": reason}
