"""NumPy float64 forms of every operator: the truth that the tests compare with. Never imports mlx."""
