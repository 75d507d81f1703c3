"""A data holder: its site, its policy, its private training, and the one exit."""
