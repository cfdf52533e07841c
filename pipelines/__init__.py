"""The dataflow around the model: videos -> feature store -> checkpoint -> scores and answers, on Ray."""
