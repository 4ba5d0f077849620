"""Machine code of the kernels: what is needed, how it is compiled, where it is, and its checks."""

from .specialisation import Specialisation as Specialisation
from .specialisation import specialise as specialise
from .store import Cubin as Cubin
from .store import Cubins as Cubins
from .store import find_cubins as find_cubins
