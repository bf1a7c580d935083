"""The engine loop: schedules sequences and groups their frames into chunks."""
