"""Paged KV cache: keys and values in blocks of a shared pool instead of one contiguous row per slot."""
