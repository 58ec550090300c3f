"""HODOR (Athar et al., CVPR 2022): objects shown once by a mask are found in all later frames."""
