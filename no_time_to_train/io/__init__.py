"""Files that are whole or not there, strict parsers, redaction of secrets, signals and exit statuses."""
