"""Prefill here, decode in another process, and the cache on its way between them."""
