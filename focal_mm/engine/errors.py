"""Errors that the person at the command line can put right."""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""
