"""Several arrays to one."""
