"""What was measured, how, over what scope and how sure: time, memory, energy, traces. Importing it imports nothing."""
