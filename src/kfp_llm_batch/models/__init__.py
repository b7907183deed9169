"""From a model URI to a local folder that the engine loads."""
