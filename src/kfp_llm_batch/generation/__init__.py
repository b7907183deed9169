"""From prompts to a local folder with a result."""
