"""Partner folders: the one definition of the format, its validation, splits and user batches."""
