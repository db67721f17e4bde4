"""Attention to the top-K closest tokens: the key selection of Focal-fast."""
