"""From a row of the paper's tables to a measured one: ``tools/reproduce.py``.

What is known of a row is in the metafiles and configs (``metafile.py``, ``rows.py``),
what is known of a run in its work dir (``runs.py``): there is no third place. From both
follow the commands that are left to do (``commands.py``, ``runner.py``) and the
comparison of measured figures with the paper's (``comparison.py``), which is shown
(``report.py``) or recorded (``record.py``). ``smoke.py`` makes any row small.
"""
