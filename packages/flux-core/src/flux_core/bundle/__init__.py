"""The bundle: the files that training gives to the robot, and the checks made before their use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .bundle import write_manifest as write_manifest
    from .checks import ITEM_BYTES as ITEM_BYTES
    from .described import DescribedBundle as DescribedBundle
    from .golden_file import prompt_columns as prompt_columns
    from .manifest import MANIFEST_NAME as MANIFEST_NAME
    from .manifest import READS_STATE as READS_STATE
    from .manifest import ComponentSource as ComponentSource
    from .manifest import FileEntry as FileEntry
    from .manifest import GraphSignature as GraphSignature
    from .manifest import Manifest as Manifest
    from .manifest import TensorSignature as TensorSignature
    from .manifest import manifest_data as manifest_data
    from .manifest import parse_manifest as parse_manifest
    from .onnx_header import read_graph_header as read_graph_header
    from .safetensors_header import SafetensorsEntry as SafetensorsEntry
    from .safetensors_header import read_safetensors_header as read_safetensors_header
    from .settings import check_config as check_config
    from .settings import component_sources as component_sources

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "bundle": ("Bundle", "write_manifest"),
        "checks": ("ITEM_BYTES",),
        "described": ("DescribedBundle",),
        "golden_file": ("prompt_columns",),
        "manifest": (
            *("MANIFEST_NAME", "ComponentSource", "FileEntry", "GraphSignature"),
            *("Manifest", "READS_STATE", "TensorSignature", "manifest_data", "parse_manifest"),
        ),
        "onnx_header": ("read_graph_header",),
        "safetensors_header": ("SafetensorsEntry", "read_safetensors_header"),
        "settings": ("check_config", "component_sources"),
    },
)
