"""pi0 and pi0.5 as launch plans."""

from .bundle import StoredTensors as StoredTensors
from .bundle import describe_bundle as describe_bundle
from .description import PiDescription as PiDescription
from .description import describe as describe
from .inference import make_plan as make_plan
from .work import LaunchWork as LaunchWork
from .work import check_plan as check_plan
from .work import work_of as work_of
