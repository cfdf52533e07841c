"""Checkpoints and endpoints -> scores that can be trusted: strict, resumable, with error bars."""
