"""VideoLLaMB: long videos through recurrent memory bridges (arXiv 2409.01071)."""
