"""Checkpoints and endpoints -> scores with error bars."""
