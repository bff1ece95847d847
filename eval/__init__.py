"""Measuring: bits per byte on raw bytes, and comparisons at matched cost. Write `from eval.bpb import ...`, never `import eval`."""
