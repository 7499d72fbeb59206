"""What `track` writes, a form a file, found by the file name that the user gives or by its own name."""
