"""Training of encoders on the public catalogue: items and their media, never a user, so epsilon is 0."""
