"""From the distances of teacher and student to the anomaly map and the image score."""
