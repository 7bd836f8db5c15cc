"""Where the gradient goes on its way back through time."""

from .lag import LagMap, gradient_by_lag
