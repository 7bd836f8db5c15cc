"""Back-propagation through time: unrolling, scans, truncation, checkpointing, and real-time recurrent learning."""

from ..nn.states import detach
from ..nn.unrolling import Recorded, Unrolled, unroll
from .checkpoint import checkpointed
from .forward_mode import Moment, real_time
from .gates_detached import GatesDetached
from .memory import memory_plan
from .scan import scanned
from .truncation import Window, randomly_truncated, truncated

# fmt: off
__all__ = [
    "GatesDetached", "Moment", "Recorded", "Unrolled", "Window", "checkpointed", "detach", "memory_plan",
    "randomly_truncated", "real_time", "scanned", "truncated", "unroll",
]
# fmt: on
