"""What users name as inputs besides image files and folders: patterns, lists of paths, and videos."""
