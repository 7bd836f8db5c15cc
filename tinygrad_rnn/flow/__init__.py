"""Gradient flow back through time: measurements, with plots, and a regulariser."""

from .gates import Saturation, saturation
from .gradients import GradientNorms, gradient_norms
from .jacobians import JacobianSpectrum, LyapunovExponents, jacobian_spectrum, lyapunov_exponents
from .lag import LagMap, gradient_by_lag
from .paths import GradientPaths, gradient_paths
from .regularizer import omega

# fmt: off
__all__ = [
    "GradientNorms", "GradientPaths", "JacobianSpectrum", "LagMap", "LyapunovExponents", "Saturation",
    "gradient_by_lag", "gradient_norms", "gradient_paths", "jacobian_spectrum", "lyapunov_exponents", "omega",
    "saturation",
]
# fmt: on
