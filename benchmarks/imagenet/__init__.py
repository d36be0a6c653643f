"""BAIT, BoSS and REFINE at the size of ImageNet, each beside a floor from bandwidth and matrix throughput."""
