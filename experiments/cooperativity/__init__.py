"""Two factors that help each other bind: the simulation."""
