"""Which operation is guilty: each one judged by its own error, on the subject's own inputs."""
