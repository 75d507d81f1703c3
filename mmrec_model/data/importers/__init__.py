"""From a user's unpacked folder of a public data set to a validated partner folder (`docs/data.md`).

One module per format says which files it has and turns them into the partner format's rows; what follows is the same
for all: checking, choosing, writing.
"""
