"""Heads beside the ranking: click, conversion, rating and next category, from the user vector, the item and free terms.

Every head starts at a public constant: its logit is `bias + residual`, and the residual starts at exactly zero.
"""
