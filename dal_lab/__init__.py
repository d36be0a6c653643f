"""The laboratory around `dal_core`: data sources, encoders, grids of runs, studies, and the paper companion."""
