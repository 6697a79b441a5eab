"""The report about an exported model, for clinicians, inspectors and auditors: one HTML file."""
