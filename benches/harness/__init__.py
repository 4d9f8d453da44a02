"""The benchmark harness: see benches/README.md. Python >= 3.11, standard library only."""
