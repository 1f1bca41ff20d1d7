"""Texts to score as a tree of token ids: what several begin with stands in it once."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hermes3.engine.cache import Pages

I32 = NDArray[np.int32]
_NONE: I32 = np.empty(0, np.int32)


@dataclass(slots=True, eq=False)
class Node:
    """A run of ids that everything below it shares.

    Attributes:
        ids: int32, at least one but in the root.
        start: position of the first of them.
        rows: positions whose logits are wanted, from the node's first id, rising; int32 (n_targets,).
        targets: the id whose log-probability is wanted there; int32 (n_targets,).
        requests: for which request; int32 (n_targets,).
        pages: of the whole path down to here, while it is in the cache.
        n_done: ids that have been computed.
        n_forked: children that have begun.
    """

    ids: I32
    start: int
    parent: Node | None
    children: list[Node] = field(default_factory=list)
    rows: I32 = field(default_factory=lambda: _NONE)
    targets: I32 = field(default_factory=lambda: _NONE)
    requests: I32 = field(default_factory=lambda: _NONE)
    pages: Pages = field(default_factory=lambda: _NONE)
    n_done: int = 0
    n_forked: int = 0

    @property
    def end(self) -> int:
        """Position after the last id."""
        return self.start + self.ids.size

    @property
    def n_left(self) -> int:
        """Ids that have not been computed."""
        return self.ids.size - self.n_done

    def detach(self) -> None:
        """Takes the whole path into itself, so that it no longer needs what its parents computed."""
        parts, node = [self.ids], self.parent
        while node is not None:
            parts.append(node.ids)
            node = node.parent
        self.rows = self.rows + np.int32(self.start)
        self.ids, self.start, self.parent = np.concatenate(parts[::-1]), 0, None


def build(paths: Ordered[I32], firsts: Ordered[int], targets: Ordered[I32]) -> Node:
    """The tree of some requests.

    Args:
        paths: ids that go through the model, int32, at least one each.
        firsts: the position in each path from which on logits are wanted.
        targets: the ids to be scored, one for each position from there to the path's end, int32.

    Returns:
        its root, which holds no ids.
    """
    leaves = _grow(paths)
    wanted: dict[Node, list[I32]] = {}
    for request, (first, ids) in enumerate(zip(firsts, targets, strict=True)):
        node: Node | None = leaves[request]
        while node is not None and node.end > first:
            low = max(first, node.start)
            part = np.empty((3, node.end - low), np.int32)
            part[0] = np.arange(low, node.end) - node.start
            part[1] = ids[low - first : node.end - first]
            part[2] = request
            wanted.setdefault(node, []).append(part)
            node = node.parent
    for node, parts in wanted.items():
        joined = np.concatenate(parts, axis=1)
        joined = joined[:, np.argsort(joined[0], kind="stable")]
        node.rows, node.targets, node.requests = (joined[i].copy() for i in range(3))
    root = leaves[0]
    while root.parent is not None:
        root = root.parent
    return root


def _grow(paths: Ordered[I32]) -> list[Node]:
    """The tree, given by the node where each path ends."""
    root = Node(_NONE, 0, None)
    leaves = [root] * len(paths)
    keys = [path.astype(">u4").tobytes() for path in paths]  # bytes sort as the ids do
    last, before = root, _NONE
    for request in sorted(range(len(paths)), key=keys.__getitem__):
        path = paths[request]
        n_shared = _common(before, path)
        while last.start >= n_shared and last.parent is not None:
            last = last.parent
        if last.end > n_shared:
            last = _split(last, n_shared)
        if path.size > n_shared:
            leaf = Node(path[n_shared:], n_shared, last)
            last.children.append(leaf)
            last = leaf
        leaves[request] = last
        before = path
    return leaves


def _split(node: Node, position: int) -> Node:
    """Puts the ids before a position into a new node above this one, the last child of its parent."""
    assert node.parent is not None  # the root has no ids
    upper = Node(node.ids[: position - node.start], node.start, node.parent, [node])
    node.parent.children[-1] = upper
    node.ids, node.start, node.parent = node.ids[upper.ids.size :], position, upper
    return upper


def _common(a: I32, b: I32) -> int:
    """Ids that both begin with."""
    n = min(a.size, b.size)
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if differ.size else n
