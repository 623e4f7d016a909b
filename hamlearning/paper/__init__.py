"""The paper's tables as runs."""
