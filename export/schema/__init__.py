"""What the export writes about a bundle: the records in `quality.json`, in the stages' folders and in the manifest."""
