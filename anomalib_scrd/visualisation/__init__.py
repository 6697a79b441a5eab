"""Pictures and a table of predictions."""
