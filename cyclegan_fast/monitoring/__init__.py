"""What a run shows of itself: the console, event files, sample grids, the machine and the report."""
