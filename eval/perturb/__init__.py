"""Perturbations of prompts that leave what a program does as it was; `README.md` of this folder lists them."""
