"""Pictures and tables of predictions."""
