"""What a run shows of itself: progress, event files, sample grids, the machine and the report."""
