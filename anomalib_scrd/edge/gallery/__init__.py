"""A look at results without programming: pictures by score, a slider for the threshold, pages without a server."""
