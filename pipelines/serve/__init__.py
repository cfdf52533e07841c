"""Serving: an OpenAI-compatible endpoint that looks at a video once and answers many questions about it.

Read :mod:`.deployment` for what runs where, :mod:`.service` and :mod:`.replica` for the two halves of a request, and
:mod:`.guard` for what requests may make the server open.
"""
