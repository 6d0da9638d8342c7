"""A run's configuration, the step that all methods share, a whole run, its record and checkpoint, and their use."""
