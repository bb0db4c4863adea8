"""What people look at: figures, the report page, the view of a running search."""
