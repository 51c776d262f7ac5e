"""How good what was learned is: probes, nearest neighbours, metrics, baselines and signs of collapse."""
