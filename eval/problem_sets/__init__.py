"""Problem sets of our own, in HumanEval's format; `eval.problems.load_problems` reads them by name."""
