"""The same genomes simulated, trained naively and by CoralX, side by side."""
