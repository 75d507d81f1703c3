"""Frozen public encoders; they only ever fill the item feature store."""
