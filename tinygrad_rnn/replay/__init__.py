"""Recording a step of fixed shapes once, and replaying it without Python's part in it."""

from .capture import Captured, capture
