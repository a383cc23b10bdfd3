"""Transfers between accounts on several nodes while the cluster's processes are killed."""
