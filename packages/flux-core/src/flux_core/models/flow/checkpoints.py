"""How the checkpoints of related networks are named: by each project that writes them, and by us.

A family lies beside its networks. `weights/` finds it through the registry and does the rest:
opening files, loading, conversion, messages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return torch.Size(self.shape).numel()


class CheckpointFamily(ABC):
    """The names of the weights of one network and its relatives.

    Attributes:
        formats: the projects whose names it knows. 'flux' is ours.
        robot_dimension: our name of a weight -> the axis whose size is the number of state or
            action dimensions, which differs between robots (see `pretrained_adapt`).
    """

    formats: ClassVar[tuple[str, ...]]
    robot_dimension: ClassVar[Mapping[str, int]] = {}

    @abstractmethod
    def recognise(self, names: Collection[str], *, is_ours: bool) -> str | None:
        """Returns the project that wrote weights with these names; None if no known one did.

        Args:
            names: of all weights in a file.
            is_ours: whether flux has written the file.
        """

    @abstractmethod
    def our_names(self, names: Collection[str], form: str) -> tuple[dict[str, str], list[str]]:
        """Returns our name -> the file's, and the names in the file that are unknown.

        Copies of a weight, and weights that are known but never used, are in neither.
        """

    def equal_copies(self, names: Mapping[str, str], form: str) -> Sequence[tuple[str, str]]:
        """Returns pairs of names in files that must have equal values, if a file has both.

        Args:
            names: our name -> the file's.
            form: the project that wrote it.
        """
        return ()

    @abstractmethod
    def kind(self, names: Collection[str]) -> str:
        """Returns the kind of network that weights with our names are of: 'pi0', for instance."""

    def may_be_missing(self, name: str, kind: str) -> bool:
        """Whether a checkpoint of this kind need not fill a weight, which keeps its values."""
        return False

    def may_have_spare_rows(self, name: str, form: str) -> bool:
        """Whether a weight may have further rows that nobody uses, which are dropped."""
        return False

    def converted(
        self, tensors: Mapping[str, StoredTensor], kind: str, to_kind: str
    ) -> Mapping[str, StoredTensor] | None:
        """Returns weights of one kind as another kind starts from them; None if it cannot."""
        return None

    def hint_if_missing(self, names: Collection[str], kind: str) -> str:
        """Returns what to do if a checkpoint of this kind lacks these weights, or an empty text."""
        return ""

    @abstractmethod
    def written(
        self,
        tensors: Mapping[str, StoredTensor],
        file_tensors: Mapping[str, StoredTensor],
        form: str,
        to: str,
    ) -> dict[str, Tensor]:
        """Returns all tensors that another project's file has, by its names.

        Args:
            tensors: the weights by our names.
            file_tensors: all tensors of the source, by its names.
            form: the project that wrote the source.
            to: the project whose names are written.

        Raises:
            CheckpointError: that project's checkpoints have no such weights.
        """
