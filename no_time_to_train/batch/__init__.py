"""Many images: list them, find what is done already, journal, results of all, report."""
