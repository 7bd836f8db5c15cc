"""Back-propagation through time: unrolling, and cutting the way back."""

from ..nn.recurrent import Recorded, Unrolled, unroll
from .state import detach
from .checkpoint import checkpointed
from .memory import memory_plan
