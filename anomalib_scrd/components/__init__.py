"""Parts of the network: teacher, feature standardisation, bottleneck, student, scale adaptation."""
