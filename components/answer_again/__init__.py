"""The component `answer_again`."""
