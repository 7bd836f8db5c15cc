"""Optimisers, and schedules for their learning rates."""

from .base import Groups, Optimizer
from .optimizers import SGD, Adagrad, Adam, AdamW, GravesRMSprop, RMSprop
from .plateau import ReduceLROnPlateau
from .schedules import CosineAnnealingLR, ExponentialLR, LambdaLR, LinearLR, MultiStepLR, Schedule, SequentialLR, StepLR

# fmt: off
__all__ = [
    "SGD", "Adagrad", "Adam", "AdamW", "CosineAnnealingLR", "ExponentialLR", "GravesRMSprop", "Groups", "LambdaLR",
    "LinearLR", "MultiStepLR", "Optimizer", "RMSprop", "ReduceLROnPlateau", "Schedule", "SequentialLR", "StepLR",
]
# fmt: on


def __getattr__(name: str) -> object:
    from ..hints import OPTIMISERS, missing

    raise missing(name, f"module {__name__!r}", OPTIMISERS.get(name))
