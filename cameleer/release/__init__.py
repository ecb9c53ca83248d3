"""A checkpoint as a Hugging Face directory with a model card, verified and pushed."""
