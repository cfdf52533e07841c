"""The extraction job driven from outside, as an operator's command line, and broken in every way we know.

``job.py`` starts it and finds its processes, ``interruption.py`` kills one, ``content.py`` says what a store holds;
``s3_server.py``, ``s3_proxy.py`` and ``file_watch.py`` are the storage layer with a counter in it. The long versions
are ``tests/benchmarks/kills.py`` and ``memory.py``.
"""
