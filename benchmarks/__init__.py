"""Measurements of speed and memory that can be trusted, and a plot of them."""
