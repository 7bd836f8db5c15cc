"""Record a step of fixed shapes once, and replay it without running its Python code."""

from .capture import Captured, capture
