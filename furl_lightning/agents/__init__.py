"""SAC for a population of independent agents; knows no VLM."""
