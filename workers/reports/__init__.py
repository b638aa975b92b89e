"""Reports, rendered as Markdown and HTML."""
