"""make soak: trains, kills, resumes, translates and exports at random, and holds memory, threads and files flat."""
