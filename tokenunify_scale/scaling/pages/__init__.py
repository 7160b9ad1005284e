"""What a study shows: tables, rankings, curves, the paper's figures beside ours, one report."""
