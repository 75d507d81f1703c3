"""The coordinator: who trains, which replies count, what is averaged. Holds no user data."""
