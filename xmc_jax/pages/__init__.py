"""HTML and Markdown pages, made from records, configs and images; loads no model."""
