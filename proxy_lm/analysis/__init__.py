"""Analyses of views over a corpus: `proxy-lm compressor analyse`. One question a file; plots and the page stand beside them."""
