"""Speed, measured side by side: what Coread does, what others do, and the floor. `coread bench NAME` runs one."""
