"""Code that runs inside the lab's hosts, in the cloud's own environment, not in this one."""
