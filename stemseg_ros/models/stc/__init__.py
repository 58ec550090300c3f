"""STC (Jiang et al., ECCV 2022 workshops): CondInst and embeddings, one result for every frame."""
