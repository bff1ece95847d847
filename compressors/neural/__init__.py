"""Neural views: arithmetic coding over a small byte model, cut into equal-info windows. See README.md; `table` is where to begin."""
