"""The Hugging Face Hub: a run as a model that others load by its name there, with a card, and as a page to try it."""
