"""The Merkle tree of RFC 6962 over record hashes: one root commits to every record and their order.

A record hash is SHA-256(0x00 || record), which is RFC 6962's leaf hash, so it is the leaf as it stands; an inner node
is SHA-256(0x01 || left || right). Proofs are lists of nodes of 64 hexadecimal digits each, in the order of section 2.1.
A proof is checked without the tree (RFC 9162, 2.1.3.2 and 2.1.4.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, TypeAlias

Proof: TypeAlias = tuple[str, ...]

EMPTY_ROOT: Final = hashlib.sha256(b"").hexdigest()


def join(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(b"\1" + left + right).digest()


class MerkleTree:
    """A tree that grows at its end; any root or proof of any earlier size costs O(log n) to O(log² n) hashes.

    Args:
        leaves: leaf hashes, 64 hexadecimal digits each.
    """

    def __init__(self, leaves: Sequence[str] = ()) -> None:
        # _levels[k][i] is the root of the complete subtree over leaves i * 2**k to (i + 1) * 2**k.
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: str) -> None:
        """Add one leaf hash."""
        node = bytes.fromhex(leaf)
        self._levels[0].append(node)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            node = join(self._levels[level][-2], self._levels[level][-1])
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(node)

    def root(self, size: int | None = None) -> str:
        """Root over the first `size` leaves, by default all.

        Raises:
            ValueError: `size` is not in 0..len(self).
        """
        size = len(self) if size is None else size
        self._require_size(size)
        return self._node(0, size).hex() if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> Proof:
        """Nodes that lead from leaf `index` to the root of the first `size` leaves.

        Raises:
            ValueError: `index` is not below `size`, or `size` is not in 1..len(self).
        """
        size = len(self) if size is None else size
        self._require_size(size)
        if not 0 <= index < size:
            raise ValueError(f"leaf {index} is not in a tree of {size}")
        return tuple(node.hex() for node in self._path(index, 0, size))

    def consistency_proof(self, old_size: int, size: int | None = None) -> Proof:
        """Nodes that show that the tree of `size` leaves starts with the tree of `old_size`; empty for 0 or equal.

        Raises:
            ValueError: not 0 <= old_size <= size <= len(self).
        """
        size = len(self) if size is None else size
        self._require_size(size)
        if not 0 <= old_size <= size:
            raise ValueError(f"a tree of {size} leaves has no earlier size {old_size}")
        if old_size in {0, size}:
            return ()
        return tuple(node.hex() for node in self._growth(old_size, 0, size, whole=True))

    def _require_size(self, size: int) -> None:
        if not 0 <= size <= len(self):
            raise ValueError(f"size {size} is not in 0..{len(self)}")

    def _node(self, start: int, end: int) -> bytes:
        count = end - start
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self._levels[level][start >> level]
        middle = start + _split(count)
        return join(self._node(start, middle), self._node(middle, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if index < middle:
            return [*self._path(index, start, middle), self._node(middle, end)]
        return [*self._path(index, middle, end), self._node(start, middle)]

    def _growth(self, old: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        if old == end:
            return [] if whole else [self._node(start, end)]
        middle = start + _split(end - start)
        if old <= middle:
            return [*self._growth(old, start, middle, whole=whole), self._node(middle, end)]
        return [*self._growth(old, middle, end, whole=False), self._node(start, middle)]


def verify_inclusion(leaf: str, index: int, size: int, proof: Sequence[str], root: str) -> bool:
    """Whether `proof` shows that `leaf` is number `index` of the `size` leaves under `root`."""
    if not 0 <= index < size:
        return False
    try:
        node, nodes = bytes.fromhex(leaf), [bytes.fromhex(item) for item in proof]
    except ValueError:
        return False
    place, last = index, size - 1
    for other in nodes:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = join(other, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = join(node, other)
        place, last = place >> 1, last >> 1
    return last == 0 and node.hex() == root


def verify_consistency(old_size: int, size: int, old_root: str, root: str, proof: Sequence[str]) -> bool:
    """Whether `proof` shows that the `size` leaves under `root` start with the `old_size` leaves under `old_root`."""
    if old_size in {0, size}:
        same = old_root == (root if old_size == size else EMPTY_ROOT)
        return 0 <= old_size <= size and same and not proof
    if not 0 < old_size < size or not proof:
        return False
    try:
        nodes = [bytes.fromhex(item) for item in proof]
        if old_size & (old_size - 1) == 0:
            nodes.insert(0, bytes.fromhex(old_root))
    except ValueError:
        return False
    return _grows(old_size - 1, size - 1, nodes, old_root, root)


def _grows(place: int, last: int, nodes: Sequence[bytes], old_root: str, root: str) -> bool:
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = join(node, old), join(node, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = join(new, node)
        place, last = place >> 1, last >> 1
    return last == 0 and old.hex() == old_root and new.hex() == root


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)
