"""Where the gradient goes on its way back through time: measurements of it, each with a picture."""

from .gates import Saturation, saturation
from .gradients import GradientNorms, gradient_norms
from .jacobians import JacobianSpectrum, LyapunovExponents, jacobian_spectrum, lyapunov_exponents
from .lag import LagMap, gradient_by_lag
from .regularizer import omega
