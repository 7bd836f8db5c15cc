"""Nested tuples, lists and dictionaries: the structure of states and parameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Tree = TypeVar("Tree")  # where the result has the structure of the argument


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to every leaf; further trees of the same structure supply further arguments.

    None stays None. Tuples, named tuples and lists match if they have the same length; the result has the types of the
    first tree. Raises ValueError if the structures differ.

    >>> tree_map(lambda a, b: a + b, {"h": 1, "c": (2, 3)}, {"h": 10, "c": (20, 30)})
    {'h': 11, 'c': (22, 33)}
    """
    if tree is None:
        return None
    if not isinstance(tree, (tuple, list, dict)):
        return function(tree, *others)
    for other in others:
        if not alike(tree, other):
            raise ValueError(f"the trees differ in structure: {_outline(tree)} and {_outline(other)}")
    return rebuild(tree, [tree_map(function, tree[k], *(other[k] for other in others)) for k in keys_of(tree)])


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to every leaf, None included; a container in which none changes stays the same object."""
    if not isinstance(tree, (tuple, list, dict)):
        return function(tree)
    old = tree.values() if isinstance(tree, dict) else tree
    new = [mapped(function, child) if isinstance(child, (tuple, list, dict)) else function(child) for child in old]
    return tree if all(map(operator.is_, new, old)) else rebuild(tree, new)


def tree_leaves(tree: Any) -> list[Any]:
    """All leaves from left to right.

    >>> tree_leaves({"h": 1, "c": (2, [3])})
    [1, 2, 3]
    """
    return [leaf for _, leaf in tree_items(tree)]


def tree_items(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves with their dotted paths.

    >>> list(tree_items({"h": 1, "c": (2, 3)}))
    [('h', 1), ('c.0', 2), ('c.1', 3)]
    """
    if tree is None:
        return
    if not isinstance(tree, (tuple, list, dict)):
        yield path, tree
        return
    names = tree.keys() if isinstance(tree, dict) else getattr(tree, "_fields", range(len(tree)))
    children = tree.values() if isinstance(tree, dict) else tree
    for name, child in zip(names, children, strict=True):
        yield from tree_items(child, f"{path}.{name}" if path else str(name))


def rebuild(like: Any, children: Any) -> Any:
    """A container of the same kind as ``like`` (named tuples included) with new children."""
    if type(like) is dict:
        return dict(zip(like, children, strict=True))
    if isinstance(like, dict):  # a subclass, which may have attributes beside its items, as a defaultdict does
        kind: Any = type(like)  # not copy.copy, which reads attributes: its items may be attributes as well
        other = kind.__copy__(like) if hasattr(kind, "__copy__") else kind.__new__(kind)
        if kind.__dictoffset__:
            vars(other).update(vars(like))
        for key, child in zip(like, children, strict=True):
            other[key] = child
        return other
    if hasattr(like, "_fields"):
        return type(like)(*children)
    return type(like)(children)


def keys_of(tree: Any) -> Any:
    """What a dictionary, tuple or list is indexed by."""
    return tree.keys() if isinstance(tree, dict) else range(len(tree))


def alike(tree: Any, other: Any) -> bool:
    """Whether the other one has the same keys as a dictionary, or the same length as a tuple or list."""
    return isinstance(other, dict if isinstance(tree, dict) else (tuple, list)) and keys_of(tree) == keys_of(other)


def _outline(tree: Any) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(map(str, tree)) + "}"
    return f"{type(tree).__name__} of {len(tree)}" if isinstance(tree, (tuple, list)) else type(tree).__name__
