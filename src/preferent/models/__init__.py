"""Hugging Face models as policies, scorers and critics over one shared-prefix forward."""
