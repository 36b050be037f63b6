"""Files from web servers, and reading those files in the formats they are published in."""
