"""What is done with a finished run: its photographs, decisions, searches and differences."""
