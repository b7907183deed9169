"""From a dataset anywhere to rendered prompts in Arrow."""
