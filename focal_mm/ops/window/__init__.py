"""Focal attention: keys in fixed regions around each window."""
