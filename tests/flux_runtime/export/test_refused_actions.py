"""Actions that the robot's control loop cannot convert are refused before anything is exported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flux_core.errors import ExportError
from flux_runtime.export.prepare import check_actions


def actions(*, binary: bool) -> Any:
    return SimpleNamespace(has_binary_actions=binary)


def test_binary_actions_are_refused_with_the_way_out() -> None:
    with pytest.raises(ExportError, match=r"action_keys: expected rules .* got 'binary'.*min_max"):
        check_actions(actions(binary=True))


def test_others_are_exported() -> None:
    check_actions(actions(binary=False))
