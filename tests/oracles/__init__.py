"""Slow, obvious versions that the fast ones are held against."""
