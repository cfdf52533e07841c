"""Reference vectors and the runner that checks a folder of them."""
