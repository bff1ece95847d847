"""A trained run as files that other programs load: a Hugging Face folder or one GGUF file. README.md says what is promised."""
