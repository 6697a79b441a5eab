"""Pictures of predictions and the table that goes with them."""
