"""Grids of small federations: named scenarios, each a plain function from one recipe to many."""
