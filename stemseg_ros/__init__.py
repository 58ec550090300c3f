"""STEm-Seg: video instance segmentation by spatio-temporal embeddings, as a library and a ROS 2
node."""

__version__ = "0.1.0"
