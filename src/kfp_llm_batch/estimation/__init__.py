"""How long a job will take, before it is run: a sample of its rows, and a short probe of the engine."""
