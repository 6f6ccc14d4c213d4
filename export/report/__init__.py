"""What was measured of a bundle: model card, report.html, printed tables; and a Triton model repository."""
