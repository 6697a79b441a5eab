"""The report about an exported model, as one HTML file for clinicians, inspectors and auditors."""
