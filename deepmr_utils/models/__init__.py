"""Networks: our own definitions, and readers of published weights."""
