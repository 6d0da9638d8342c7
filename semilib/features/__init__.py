"""Features of pretrained encoders: those of every view computed once, kept on disk, and dealt to a training step."""
