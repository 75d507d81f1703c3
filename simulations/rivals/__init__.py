"""Rivals: what every result of the project stands beside, behind one interface and with one search budget."""
