"""What a clinician, an inspector or an auditor reads about an exported model: one HTML file, and a gallery."""
