"""What people look at: overlays on frames, charts, attention."""
