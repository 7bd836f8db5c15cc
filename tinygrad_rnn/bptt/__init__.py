"""Back-propagation through time: unrolling, and cutting the way back."""

from ..nn.recurrent import Recorded, Unrolled, unroll
from .carousel import GatesDetached
from .state import detach
from .truncation import Window, randomly_truncated, truncated
