"""The search for the most accurate model that fits a latency, a size or an accuracy, whatever the structure of its layers."""
