"""Lets torchvision be imported beside a torch without CUDA; run in the environment that needs it.

PyPI's torchvision is built for PyPI's torch. Beside another build of the same version its compiled
operators do not load, and `import torchvision` fails because `torchvision::nms` does not exist.
This writes a module and a .pth file that declare the two operators when torchvision is first
imported. Nothing here calls them. An environment whose torch and torchvision belong together needs
none of it.
"""

import sysconfig
from pathlib import Path

MODULE = """
import importlib.abc
import sys


class _Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, operator):
                    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    torch.library.define(f"torchvision::{operator}", arguments)
        return None


sys.meta_path.insert(0, _Declare())
"""

if __name__ == "__main__":
    folder = Path(sysconfig.get_path("purelib"))
    (folder / "torchvision_operators.py").write_text(MODULE)
    (folder / "torchvision_operators.pth").write_text("import torchvision_operators\n")
