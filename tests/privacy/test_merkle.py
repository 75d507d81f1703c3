from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.privacy.merkle import EMPTY_ROOT, MerkleTree, verify_consistency, verify_inclusion


def leaf(content: bytes) -> str:
    return hashlib.sha256(b"\0" + content).hexdigest()


# The eight inputs and their roots that implementations of RFC 6962 share (certificate-transparency, merkle_tree_test).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves: list[str]) -> str:
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    left, right = (bytes.fromhex(naive_root(part)) for part in (leaves[:split], leaves[split:]))
    return hashlib.sha256(b"\1" + left + right).hexdigest()


def some_leaves(count: int) -> list[str]:
    return [leaf(bytes([number])) for number in range(count)]


def test_the_roots_are_those_of_rfc_6962() -> None:
    tree = MerkleTree([leaf(bytes.fromhex(text)) for text in INPUTS])
    assert [tree.root(size) for size in range(1, 9)] == ROOTS
    assert tree.root(0) == hashlib.sha256(b"").hexdigest()


def test_every_earlier_root_equals_the_root_of_the_recursive_definition() -> None:
    leaves = some_leaves(70)
    tree = MerkleTree(leaves)
    assert [tree.root(size) for size in range(71)] == [naive_root(leaves[:size]) for size in range(71)]


def test_every_leaf_of_every_tree_has_an_inclusion_proof_that_fits_nowhere_else() -> None:
    leaves = some_leaves(20)
    tree = MerkleTree(leaves)
    for size in range(1, 21):
        root = tree.root(size)
        for index in range(size):
            proof = tree.inclusion_proof(index, size)
            accepted = [place for place in range(size) if verify_inclusion(leaves[index], place, size, proof, root)]
            assert accepted == [index]
            assert not verify_inclusion(leaf(b"other"), index, size, proof, root)
            assert not verify_inclusion(leaves[index], index, size, [*proof, root], root)
            assert not proof or not verify_inclusion(leaves[index], index, size, proof[:-1], root)


def test_every_tree_proves_that_it_starts_with_every_earlier_tree() -> None:
    tree = MerkleTree(some_leaves(33))
    for size in range(34):
        for old_size in range(size + 1):
            proof = tree.consistency_proof(old_size, size)
            assert verify_consistency(old_size, size, tree.root(old_size), tree.root(size), proof)


@given(st.integers(1, 40), st.data())
def test_no_proof_connects_two_histories(size: int, data: st.DataObject) -> None:
    old_size = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, old_size - 1))
    leaves = some_leaves(size)
    tree = MerkleTree(leaves)
    other = MerkleTree([leaf(b"changed") if index == changed else item for index, item in enumerate(leaves)])
    for prover in (tree, other):
        proof = prover.consistency_proof(old_size)
        assert not verify_consistency(old_size, size, other.root(old_size), tree.root(), proof)


@given(st.integers(2, 40), st.data())
def test_a_changed_consistency_proof_fails(size: int, data: st.DataObject) -> None:
    old_size = data.draw(st.integers(1, size - 1))
    tree = MerkleTree(some_leaves(size))
    proof = list(tree.consistency_proof(old_size))
    index = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = [*proof]
    flipped[index] = f"{int(proof[index], 16) ^ (1 << bit):064x}"
    for forged in (flipped, proof[:-1], [*proof, proof[0]], ["no digest"]):
        assert not verify_consistency(old_size, size, tree.root(old_size), tree.root(), forged)


def test_sizes_outside_the_tree_are_refused() -> None:
    tree = MerkleTree(some_leaves(3))
    for call in (
        lambda: tree.root(4),
        lambda: tree.root(-1),
        lambda: tree.inclusion_proof(3),
        lambda: tree.consistency_proof(4),
        lambda: tree.consistency_proof(3, 2),
    ):
        with pytest.raises(ValueError, match=r"size|leaf"):
            call()
    assert not verify_consistency(4, 3, tree.root(), tree.root(), ())
    assert not verify_inclusion(leaf(b"x"), 3, 3, (), tree.root())
