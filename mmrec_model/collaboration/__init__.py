"""From one noised round of pair sums to a collaborative scorer; plain numpy, everything but the sums is free."""
