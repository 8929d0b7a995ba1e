"""What people see in a terminal: the progress view, the summary, the status of a run."""
