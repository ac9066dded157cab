"""What we found in libraries and would rather have there than here: a patch and its measurement each."""
