"""`python -m flux_runtime.evaluate`."""

from __future__ import annotations

from .cli import main

raise SystemExit(main())
