"""Entry points: each parses, calls one function and prints."""
