"""Other libraries doing the same work, timed in the same process run as ours."""
