"""Text made speakable while it is still arriving."""
