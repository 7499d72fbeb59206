"""What people look at: drawings on frames, figures, attention, and what a run left behind."""
