"""LongVU: spatiotemporal adaptive compression for long video understanding (arXiv 2410.17434).

Importing this package is cheap: names load their module on first use, and importing it registers the model with
the ``transformers`` Auto classes.
"""
