"""Images, annotations, references and splits."""
