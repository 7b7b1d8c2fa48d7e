"""Other people's formats, in and out: Hugging Face folders and names, GGUF. All conversion stops at this door."""
