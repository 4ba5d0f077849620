"""A dataset's column names of the state, the actions and the cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_core.config import bind, did_you_mean
from flux_core.errors import ConfigError

Section = dict[str, Any]

STATE, ACTION = "observation.state", "action"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A dataset's column names; the defaults are LeRobot's.

    Attributes:
        state: the column of the state, or several that are concatenated in this order.
        actions: the same for recorded actions.
        cameras: camera -> its column; omitted ones are `observation.images.CAMERA`.
    """

    state: str | tuple[str, ...] = STATE
    actions: str | tuple[str, ...] = ACTION
    cameras: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, columns: Columns | Section | None) -> Columns:
        """Binds `dict(state=..., actions=..., cameras={...})`, in which each key is optional.

        Raises:
            ConfigError: an unknown key, or a value of the wrong type.
        """
        return bind(cls, {} if columns is None else columns, "columns")

    @property
    def are_lerobots(self) -> bool:
        """Whether state and actions have LeRobot's names."""
        return (self.state, self.actions) == (STATE, ACTION)

    def inputs(self, cameras: Sequence[str], *, num_padding_cameras: int = 0) -> Section:
        """Returns the first transform, which renames columns to the sample's keys.

        Args:
            cameras: in the network's order.
            num_padding_cameras: number of black cameras with mask False after them.

        Raises:
            ConfigError: `self.cameras` names a camera that is not one of `cameras`.
        """
        for camera in self.cameras:
            if camera not in cameras:
                raise ConfigError(
                    f"columns.cameras: expected some of {', '.join(cameras)}, got {camera!r}."
                    f"{did_you_mean(camera, cameras)}"
                )
        names = (
            dict(
                parquet_keys=[STATE, "actions"],
                name_mappings={STATE: ["states"]},
            )
            if self.are_lerobots
            else dict(parquet_keys=["states", "actions"])
        )
        return dict(
            type="ProcessParquetInputs",
            video_keys=[self.cameras.get(c, f"observation.images.{c}") for c in cameras],
            num_padding_imgs=num_padding_cameras,
            **names,
        )

    def window(self, *, next_states: bool = False) -> Section:
        """Returns settings of `ParquetDataset`; `next_states` makes the next states actions."""
        first = {} if next_states else dict(window_start_idx=0)
        if self.are_lerobots:
            return first if next_states else dict(action_key=ACTION, **first)
        actions = self.state if next_states else self.actions
        return dict(state_key=_plain(self.state), action_key=_plain(actions), **first)

    def statistics(self, *, next_states: bool = False) -> Section:
        """Returns settings of `DistributedRepeatingDataset`."""
        if not self.are_lerobots:
            return dict(statistic_keys=None)
        names = {STATE: ["proprio", "action"]} if next_states else _RECORDED
        return dict(
            statistic_keys=list(names),
            name_mappings={key: list(values) for key, values in names.items()},
        )


_RECORDED = {STATE: ["proprio"], ACTION: ["action"]}


def _plain(columns: str | tuple[str, ...]) -> str | list[str]:
    return columns if isinstance(columns, str) else list(columns)
