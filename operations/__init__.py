"""The operator's commands: what a stack renders, and what its nodes do."""
