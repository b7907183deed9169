"""The report of an evaluation: one HTML file, and Markdown for logs."""
