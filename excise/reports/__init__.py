"""What a report.json says."""
