"""Speed and memory as ratios, one command per figure."""
