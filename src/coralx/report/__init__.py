"""A run's report, drawn from its journal: in the terminal, and as one HTML file."""
