"""Federations on one machine, built from real site folders and the same two apps."""
