"""Back-propagation through time: unrolling, truncation, checkpointing, and real-time recurrent learning."""

from ..nn.recurrent import Recorded, Unrolled, unroll
from .carousel import GatesDetached
from .checkpoint import checkpointed
from .forward_mode import Moment, real_time
from .memory import memory_plan
from .state import detach
from .truncation import Window, randomly_truncated, truncated
