"""The parts of ``setup_env.py``, all of the standard library alone."""
