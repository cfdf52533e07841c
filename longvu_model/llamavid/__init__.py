"""LLaMA-VID: an image is worth two tokens in large language models (arXiv 2311.17043).

Every frame becomes a context token, which the question asks for, and a few content tokens. Files are named as LongVU's
where the idea is the same, so that the two folders can be compared.
"""
