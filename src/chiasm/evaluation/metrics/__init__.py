"""What a text is worth beside reference texts: one file a metric; none knows a model or a task."""
