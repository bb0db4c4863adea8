"""What runs in parallel, and where: processes of this machine, a cluster. One file per engine."""
