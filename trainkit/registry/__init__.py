"""The model registry behind `trainkit.model`: its files, downloads, filters, and the path of a model in use."""
