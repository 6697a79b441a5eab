"""Pictures by score in static HTML pages, with a slider for the threshold."""
