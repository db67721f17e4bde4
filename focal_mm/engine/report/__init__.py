"""Reading what MMEngine left in a work dir, and showing it: curves and pages."""
