"""What the documentation site is made with, beside mkdocs: pages from source, links out of docs/."""
