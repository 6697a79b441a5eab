"""Static HTML pages of pictures, sorted by score, with a slider for the threshold."""
