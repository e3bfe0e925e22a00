"""What people read: terminal, Markdown, JSON."""
